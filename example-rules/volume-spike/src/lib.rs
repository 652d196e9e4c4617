//! volume-spike
