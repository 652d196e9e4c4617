//! percent-move
