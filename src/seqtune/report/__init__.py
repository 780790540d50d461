"""The report: one page that shows whether tuning helped."""
