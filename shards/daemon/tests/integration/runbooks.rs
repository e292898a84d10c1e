//! The commands of the runbooks, each run in the incident that its page is for.
