"""Who may use the engine now: limits, quotas, and turns by fair shares."""
