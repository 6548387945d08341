//! How is a record found again in a file, and what if it is not whole?
