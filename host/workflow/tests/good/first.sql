min(collector_tstamp)
