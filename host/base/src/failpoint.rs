//! Named points at which a test lets the process die, as a crash there would: between two steps of which the next process
//! may find one. `TOCSIN_FAILPOINT=name:8` lets it pass the point eight times and aborts at the ninth, in a build with the
//! feature `failpoints`; in any other build the points are nothing.

/// Passes a point; aborts if it is the one that is set, and is passed often enough.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    /// The point that is set, and how often it is still passed.
    static SET: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let set = std::env::var("TOCSIN_FAILPOINT").ok()?;
        let (name, passes) = set.split_once(':')?;
        Some((name.to_owned(), AtomicU32::new(passes.parse().ok()?)))
    });
    if let Some((set, passes)) = &*SET
        && set == name
        && passes.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    {
        std::process::abort();
    }
}

/// Nothing, in this build.
#[cfg(not(feature = "failpoints"))]
pub fn pass(_name: &str) {}
