//! Files that appear whole or not at all: written beside their place, synced, then renamed.

use std::io::Write;
use std::path::Path;

use crate::Failure;

/// Writes a file; nothing is left behind where that fails.
///
/// # Errors
/// With the path and the system's reason.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_with(path, |file| file.write_all(bytes).map_err(|error| cannot_write(path, error)))
}

/// Writes a file piece by piece; nothing is left behind where that fails.
///
/// # Errors
/// With the path and the system's reason, or as `content`.
pub fn write_with(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |error| cannot_write(path, error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    content(&mut file)?;
    file.as_file().sync_all().map_err(failed)?;
    restore_mode(file.as_file()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The refusal to write a file.
pub fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("cannot write `{}`: {error}", path.display()))
        .with_help("check that the folder exists and that you may write there")
}

/// Temporary files are private; results are as readable as any file.
#[cfg(unix)]
fn restore_mode(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn restore_mode(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

/// Fails now rather than after hours of training where a file could not be written later.
///
/// # Errors
/// As [`write()`].
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(Failure::new(format!("cannot write `{}`: it is a folder", path.display()))
            .with_help("name a file in it"));
    }
    tempfile::NamedTempFile::new_in(folder).map(|_| ()).map_err(|error| cannot_write(path, error))
}

/// Reads a file.
///
/// # Errors
/// With the path and the system's reason.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))
}
