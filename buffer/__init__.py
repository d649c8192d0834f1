"""The disk spool: what SLS handed over and Splunk has not yet taken.

Knows nothing of SLS, of Splunk or of processes. Imports nothing from `worker` or `supervisor`.
"""
