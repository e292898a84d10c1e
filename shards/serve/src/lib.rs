//! One file a listener kind: the conductors, the only code that sees two stages of a message at once.
