//! Files: written beside, and renamed when they are whole.

use std::{fs::File, io::BufWriter, path::Path};

use crate::{Error, Result, SaveError};

fn failed(during: &str, path: &Path, error: &std::io::Error) -> Error {
    SaveError::Io { during: format!("{during} {}", path.display()).into(), reason: error.to_string().into() }.into()
}

/// Writes a file under another name in the same folder and renames it, so that a crash leaves the old file or none.
pub(super) fn write(path: &Path, write: impl FnOnce(BufWriter<&File>) -> Result<()>) -> Result<()> {
    let refused = |error: std::io::Error| failed("writing", path, &error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As other new files: what the process masks is taken off.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let beside = builder.prefix(".saving-").tempfile_in(folder).map_err(refused)?;
    write(BufWriter::new(beside.as_file()))?;
    beside.as_file().sync_all().map_err(refused)?;
    beside.persist(path).map_err(|error| failed("writing", path, &error.error))?;
    Ok(())
}

/// Opens a file that is read from its beginning to its end.
pub(super) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| failed("reading", path, &error))?;
    // The system reads it while what came before goes to the device. It may refuse, and reads it later then.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed);
    Ok(file)
}
