//! Does with files what its payload says, step by step, and says what came of each. What it is
//! told is the attack: ways out of the scratch directory, or more than there may be of it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};

use lovage_task::{TaskError, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// One step.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Writes so many bytes into a file, which is made if need be, from there on.
    Write {
        /// The file.
        path: String,
        /// How many.
        bytes: usize,
        /// Where the first one goes.
        #[serde(default)]
        at: u64,
    },
    /// Appends so many bytes.
    Append {
        /// The file.
        path: String,
        /// How many.
        bytes: usize,
    },
    /// Makes a file so long.
    Resize {
        /// The file.
        path: String,
        /// How long.
        size: u64,
    },
    /// Makes a directory.
    Mkdir(String),
    /// Makes so many directories, each in the one before, by going down there.
    Nest {
        /// The first of them.
        path: String,
        /// How many.
        levels: usize,
    },
    /// Makes so many empty files `f0`, `f1`, …
    Many {
        /// Where.
        path: String,
        /// How many.
        files: usize,
    },
    /// Opens a file so often, and holds on to all of that for as long as this step lasts.
    Hold {
        /// The file.
        path: String,
        /// How often.
        times: usize,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What it says.
        to: String,
        /// Where it is.
        path: String,
    },
    /// Makes a hard link.
    Link {
        /// The file that there is.
        from: String,
        /// Its new name.
        path: String,
    },
    /// Renames.
    Rename {
        /// What there is.
        from: String,
        /// Its new name.
        path: String,
    },
    /// Gives back what is in a file.
    Read(String),
    /// Gives back the names in a directory.
    List(String),
    /// Gives back the length of what there is.
    Length(String),
    /// Deletes a file.
    Remove(String),
    /// Says whether the time of a file is told.
    Timed(String),
    /// Fails with what came of all steps before.
    Fail,
    /// Panics.
    Panic,
    /// Spins for ever.
    Spin,
}

/// Does all steps, and gives back what came of each: a value or `ok`, or the kind of its error.
#[task]
fn files(steps: Vec<Step>) -> std::result::Result<Vec<String>, TaskError> {
    let mut said = Vec::new();
    for step in steps {
        if matches!(step, Step::Fail) {
            return Err(TaskError::fail("ToldToFail", said.join(", ")));
        }
        said.push(match step.take() {
            Ok(value) => value,
            // The standard library has no word for every error.
            Err(error) => match format!("{:?}", error.kind()) {
                kind if kind == "Uncategorized" => error.to_string(),
                kind => kind,
            },
        });
    }
    Ok(said)
}

impl Step {
    fn take(self) -> Result<String> {
        let ok = Ok("ok".to_owned());
        match self {
            Self::Write { path, bytes, at } => {
                let mut file =
                    OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
                file.seek(SeekFrom::Start(at))?;
                fill(&mut file, bytes)?;
            }
            Self::Append { path, bytes } => {
                fill(&mut OpenOptions::new().append(true).open(path)?, bytes)?;
            }
            Self::Resize { path, size } => {
                OpenOptions::new().write(true).open(path)?.set_len(size)?;
            }
            Self::Mkdir(path) => std::fs::create_dir(path)?,
            Self::Nest { mut path, levels } => {
                for _ in 0..levels {
                    std::fs::create_dir(&path)?;
                    path.push_str("/d");
                }
            }
            Self::Many { path, files } => {
                for file in 0..files {
                    File::create(format!("{path}/f{file}"))?;
                }
            }
            Self::Hold { path, times } => {
                let mut held = Vec::new();
                for _ in 0..times {
                    held.push(File::open(&path)?);
                }
            }
            Self::Symlink { to, path } => symlink(to, path)?,
            Self::Link { from, path } => std::fs::hard_link(from, path)?,
            Self::Rename { from, path } => std::fs::rename(from, path)?,
            Self::Read(path) => {
                let mut text = String::new();
                File::open(path)?.take(4096).read_to_string(&mut text)?;
                return Ok(text);
            }
            Self::List(path) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path)? {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
                names.sort();
                return Ok(names.join(" "));
            }
            Self::Length(path) => return Ok(std::fs::metadata(path)?.len().to_string()),
            Self::Remove(path) => std::fs::remove_file(path)?,
            Self::Timed(path) => {
                let time = std::fs::metadata(path)?.modified()?;
                return Ok(format!("{}", time > std::time::UNIX_EPOCH));
            }
            Self::Fail => {}
            #[allow(clippy::panic, reason = "it was told to")]
            Self::Panic => panic!("told to"),
            Self::Spin => loop {
                std::hint::spin_loop();
            },
        }
        ok
    }
}

fn fill(file: &mut File, bytes: usize) -> Result<()> {
    let part = vec![b'x'; bytes.min(1 << 16)];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(part.len());
        file.write_all(part.get(..now).unwrap_or_default())?;
        left -= now;
    }
    Ok(())
}

/// The standard library's is not stable for this target.
#[cfg(target_family = "wasm")]
fn symlink(to: String, path: String) -> Result<()> {
    #[allow(unsafe_code, reason = "declares a function of the C library")]
    mod c {
        unsafe extern "C" {
            pub fn symlink(to: *const i8, path: *const i8) -> i32;
        }
    }
    let c_string = |text: String| std::ffi::CString::new(text).map_err(|_| ErrorKind::InvalidInput);
    let (to, path) = (c_string(to)?, c_string(path)?);
    #[allow(unsafe_code, reason = "both are C strings that outlive the call")]
    let done = unsafe { c::symlink(to.as_ptr(), path.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(not(target_family = "wasm"))]
fn symlink(_: String, _: String) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}

lovage_task::export!(files);
