//! Texts → SQL that means exactly them, whatever `standard_conforming_strings` is.

/// A string literal. Text with backslashes is written with `E''`, which means the same under every setting.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}
