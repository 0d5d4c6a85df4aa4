//! `duosuan crds`.

/// Every definition as a YAML document.
pub(crate) fn yaml() -> anyhow::Result<String> {
    let mut text = String::new();
    for crd in duosuan_crds::all() {
        text.push_str("---\n");
        text.push_str(&duosuan_crds::yaml(&crd)?);
    }
    Ok(text)
}
