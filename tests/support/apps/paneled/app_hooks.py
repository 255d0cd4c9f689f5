"""Imports Panel before the folder's application is made."""
