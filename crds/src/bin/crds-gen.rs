//! Writes the definitions of the API into the chart: `cargo run -p duosuan-crds --bin crds-gen`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/duosuan/crds");
    fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    for crd in duosuan_crds::all() {
        let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
        fs::write(&path, duosuan_crds::yaml(&crd)?).map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    Ok(())
}
