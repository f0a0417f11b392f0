"""The REST face: jobs, forecasts, models, health and metrics for other programs."""
