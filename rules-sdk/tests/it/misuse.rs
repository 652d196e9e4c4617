//! Mistakes are compile errors that say what to do, and correct rules compile.

#[test]
fn mistakes_are_explained_and_correct_rules_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.pass("tests/ui/good/*.rs");
}
