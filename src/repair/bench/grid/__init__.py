"""The grid of tasks, sizes and methods: cells, their results, tables and reports."""
