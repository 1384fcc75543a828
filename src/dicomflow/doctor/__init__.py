"""Looks at a set-up before and after it runs: each finding says what is, and what to do. Changes nothing for good."""
