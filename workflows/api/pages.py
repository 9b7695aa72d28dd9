"""How the objects of the Python API look in Jupyter."""

from html import escape

import pandas as pd

MAX_ROWS = 10


def table_page(title: str, text: str, table: pd.DataFrame) -> str:
    """Return HTML of a heading, a sentence, and the first and last rows of a table.

    Args:
        title: heading.
        text: the sentence.
        table: of any length.
    """
    rows = table.to_html(max_rows=MAX_ROWS, max_cols=MAX_ROWS, na_rep="", float_format="{:.3g}".format, border=0)
    return f"<p><b>{escape(title)}</b><br>{escape(text)}</p>{rows}"
