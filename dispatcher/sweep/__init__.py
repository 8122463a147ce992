"""What was lost is found again, every so often, from what SQL says. Places nothing by itself."""
