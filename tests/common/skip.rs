//! Tests that need what not every machine has.

/// Whether a test that cannot run is a failure: `SMOOTHCNN_REQUIRE_ALL` is set, as it is where everything is there.
pub fn required() -> bool {
    std::env::var_os("SMOOTHCNN_REQUIRE_ALL").is_some_and(|value| !value.is_empty())
}

/// Says that a test, or a part of it, does not run here.
///
/// # Panics
/// If everything is [`required`].
pub fn skipped(why: &str) {
    assert!(!required(), "SMOOTHCNN_REQUIRE_ALL: {why}");
    println!("skipped: {why}");
}
