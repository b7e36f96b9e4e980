"""The code behind the course *From Divergence to Deep Kalman Filters*: one module a chapter."""
