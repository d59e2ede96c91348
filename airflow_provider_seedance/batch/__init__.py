"""Many generations in one task instance: requests, records, results, manifest and estimates of a batch."""
