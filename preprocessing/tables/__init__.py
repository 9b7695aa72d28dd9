"""Files of tables: containers, layouts, reading into data frames, case ids and sample types."""
