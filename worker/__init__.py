"""The two kinds of child process: consumers read SLS into the spool, senders drain it to Splunk HEC."""
