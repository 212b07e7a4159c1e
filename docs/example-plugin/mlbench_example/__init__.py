"""One thing for each door of mlbench: a method, a data set, a backbone, a head, a protocol and a metric."""
