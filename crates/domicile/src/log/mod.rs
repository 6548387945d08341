//! One durable log per origin: segments of framed records.
