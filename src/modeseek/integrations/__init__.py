"""Integrations with other programs, one module each; a program is imported only when its integration is used."""
