"""ThinkSafe, and the trainers that it is compared with."""
