"""The browser SDK: one ES module and its types, served as they stand (`routes/sdk.py`). No Python in here."""
