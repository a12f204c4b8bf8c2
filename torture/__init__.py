"""What `python -m torture.run` measures: nothing is cut, nothing is lost, nobody gets in. One module a part."""
