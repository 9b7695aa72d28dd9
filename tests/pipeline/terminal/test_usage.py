import re
import threading

from pipeline.terminal.usage import Usage


def test_it_tells_how_busy_processors_and_memory_were():
    with Usage(gpus=None) as usage:
        sum(range(10**6))
    told = re.match(r"CPU (\d+) % of \d+ cores, memory [\d.]+ of [\d.]+ GiB", usage.told())
    assert 0 <= int(told[1]) <= 100


def test_gpus_are_looked_at_again_and_again_and_the_mean_is_told():
    looks, enough = iter([(90.0, 0.0), (30.0, 10.0)]), threading.Event()

    def busy():
        look = next(looks, None)
        if look is None:
            enough.set()
            return (60.0, 5.0)
        return look

    with Usage(busy, every=0.001) as usage:
        assert enough.wait(10)
    assert usage.told().endswith("GPU 0 60 %, GPU 1 5 %")
