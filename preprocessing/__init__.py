"""Slides and tables become arrays: slide → tissue → tiles → features; gene table → matrix and groups; cases joined."""
