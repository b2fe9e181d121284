"""The browser interface: one module a tab, all of it built on :mod:`ovdemo.workbench`."""
