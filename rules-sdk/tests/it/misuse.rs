//! A mistake is a compile error that says what to do, and good rules compile.

#[test]
fn mistakes_are_explained_and_good_rules_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.pass("tests/ui/good/*.rs");
}
