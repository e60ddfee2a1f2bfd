//! A file that gets its name only once it is complete and on disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{self, Path, PathBuf},
    process,
};

/// The mode of the file: only the owner has access.
const OWN_FILE: u32 = 0o600;

/// A file that is written under a temporary name beside its own. It is deleted when it is dropped
/// before it is complete.
pub(crate) struct NewFile {
    name: PathBuf,
    temporary: PathBuf,
    file: File,
    replaces: bool,
    is_complete: bool,
}

impl NewFile {
    /// Creates the file, empty, under its temporary name.
    ///
    /// Errors: among others, a file with the name exists.
    pub(crate) fn create(name: &Path) -> io::Result<Self> {
        refuse_existing(name)?;
        Self::open(name, false)
    }

    /// Like [`create`](Self::create), but replaces an existing file when it is complete.
    pub(crate) fn replacing(name: &Path) -> io::Result<Self> {
        Self::open(name, true)
    }

    fn open(name: &Path, replaces: bool) -> io::Result<Self> {
        let name = path::absolute(name)?;
        let mut temporary = name.clone().into_os_string();
        temporary.push(format!(".{}.part", process::id()));
        let temporary = PathBuf::from(temporary);
        // A killed process with the same id may have left it. It is not truncated instead, because
        // another user may have created it in a folder that all can write.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(OWN_FILE)
            .open(&temporary)?;
        Ok(Self {
            name,
            temporary,
            file,
            replaces,
            is_complete: false,
        })
    }

    /// The absolute path of the file until it is complete.
    pub(crate) fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// The file, open for reading and writing.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes the file to disk and gives it its name.
    pub(crate) fn complete(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.replaces {
            refuse_existing(&self.name)?;
        }
        fs::rename(&self.temporary, &self.name)?;
        self.is_complete = true;
        match self.name.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_complete {
            // An error is ignored: the file is of no use, but does no harm.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn refuse_existing(name: &Path) -> io::Result<()> {
    match fs::symlink_metadata(name) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it exists, and is not overwritten",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
