//! `wasi:filesystem` 0.2 within a scratch directory: wasmtime-wasi's, behind a [`Quota`].
//!
//! Everything that reads is handed on as it is, and so is the work of keeping paths and links
//! within the directory. What makes, writes or grows something is counted first.

use std::fs::File;
use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, Host, HostDescriptor, HostDirectoryEntryStream,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::quota::{OpenStream, Quota, cost};
use super::stream::{Counted, READ_BYTES, Read};
use crate::limits::{Limit, Refusal};
use crate::state::State;

/// Puts it in the place of wasmtime-wasi's own.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<State, Counting>(linker, |state| Files {
        quota: state.scratch.clone(),
        files: state.filesystem(),
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

struct Counting;

impl HasData for Counting {
    type Data<'a> = Files<'a>;
}

/// The files of one attempt.
struct Files<'a> {
    files: WasiFilesystemCtxView<'a>,
    /// `None` where there is no scratch directory, and so nothing that a guest could name.
    quota: Option<Quota>,
}

fn refused(refusal: Refusal) -> FsError {
    code(&refusal).into()
}

fn code(refusal: &Refusal) -> ErrorCode {
    match refusal.limit {
        Limit::Memory => ErrorCode::InsufficientMemory,
        _ => ErrorCode::Quota,
    }
}

/// The longest path (`PATH_MAX`). Each of its parts is a call of the system, which nothing interrupts.
const PATH_BYTES: usize = 4096;

/// Refuses a path that is too long for any system.
fn path(path: String) -> FsResult<String> {
    if path.len() > PATH_BYTES { Err(ErrorCode::NameTooLong.into()) } else { Ok(path) }
}

/// Another handle to what is borrowed for the length of a call.
fn again(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

impl Files<'_> {
    fn quota(&self) -> FsResult<Quota> {
        self.quota.clone().ok_or_else(|| ErrorCode::NotPermitted.into())
    }

    /// The file that a descriptor stands for.
    fn file(&self, fd: &Resource<Descriptor>) -> FsResult<Arc<File>> {
        match self.files.table.get(fd)? {
            Descriptor::File(file) => Ok(Arc::clone(&file.file)),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    /// Counts what a call is to make, and takes it back if that did not come about.
    async fn making(
        &mut self,
        name: &str,
        make: impl AsyncFnOnce(&mut WasiFilesystemCtxView<'_>) -> FsResult<()>,
    ) -> FsResult<()> {
        let quota = self.quota()?;
        quota.make().map_err(refused)?;
        quota.name(name.len());
        let made = make(&mut self.files).await;
        if made.is_err() {
            quota.unmade();
        }
        made
    }

    fn counted(
        &mut self,
        stream: Resource<DynOutputStream>,
        (file, open): (Arc<File>, OpenStream),
        at: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let quota = self.quota()?;
        let stream = self.files.table.delete(stream)?;
        let counted = Counted { stream, file, at, quota, open, over: false };
        let counted: DynOutputStream = Box::new(counted);
        Ok(self.files.table.push(counted)?)
    }

    fn shown(&self, mut stat: DescriptorStat) -> DescriptorStat {
        if self.quota.as_ref().is_some_and(Quota::timeless) {
            stat.data_access_timestamp = None;
            stat.data_modification_timestamp = None;
            stat.status_change_timestamp = None;
        }
        stat
    }
}

impl Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.files.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        if let Some(refusal) = self.files.table.get(&error)?.downcast_ref::<Refusal>() {
            return Ok(Some(code(refusal)));
        }
        Host::filesystem_error_code(&mut self.files, error)
    }
}

impl HostDescriptor for Files<'_> {
    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let open = self.quota()?.stream(READ_BYTES).map_err(refused)?;
        let stream = HostDescriptor::read_via_stream(&mut self.files, fd, offset)?;
        let stream = self.files.table.delete(stream)?;
        let read: DynInputStream = Box::new(Read { stream, _open: open });
        Ok(self.files.table.push(read)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.file(&fd)?;
        let open = self.quota()?.stream(0).map_err(refused)?;
        let stream = HostDescriptor::write_via_stream(&mut self.files, fd, offset)?;
        self.counted(stream, (file, open), Some(offset))
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.file(&fd)?;
        let open = self.quota()?.stream(0).map_err(refused)?;
        let stream = HostDescriptor::append_via_stream(&mut self.files, fd)?;
        self.counted(stream, (file, open), None)
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        length: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        HostDescriptor::advise(&mut self.files, fd, offset, length, advice).await
    }

    /// Nothing: these files outlive nobody, and waiting for the disk would only be a way to keep it
    /// busy for everybody else.
    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.files.table.get(&fd)?;
        Ok(())
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        HostDescriptor::get_flags(&mut self.files, fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        HostDescriptor::get_type(&mut self.files, fd).await
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let file = self.file(&fd)?;
        self.quota()?.write(cost(&file, size, 0)).map_err(refused)?;
        HostDescriptor::set_size(&mut self.files, fd, size).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        HostDescriptor::set_times(&mut self.files, fd, accessed, modified).await
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        HostDescriptor::read(&mut self.files, fd, length, offset).await
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        let (file, quota) = (self.file(&fd)?, self.quota()?);
        let length = bytes.len() as u64;
        quota.write(cost(&file, offset, length)).map_err(refused)?;
        let written = HostDescriptor::write(&mut self.files, fd, bytes, offset).await?;
        quota.unwritten(length.saturating_sub(written));
        Ok(written)
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        let quota = self.quota()?;
        let listing = quota.list().map_err(refused)?;
        let stream = HostDescriptor::read_directory(&mut self.files, fd).await?;
        quota.listed(stream.rep(), listing);
        Ok(stream)
    }

    /// Nothing, as above.
    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.files.table.get(&fd)?;
        Ok(())
    }

    async fn create_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        name: String,
    ) -> FsResult<()> {
        let name = path(name)?;
        self.making(&name.clone(), async |files| {
            HostDescriptor::create_directory_at(files, fd, name).await
        })
        .await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        let stat = HostDescriptor::stat(&mut self.files, fd).await?;
        Ok(self.shown(stat))
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        name: String,
    ) -> FsResult<DescriptorStat> {
        let stat = HostDescriptor::stat_at(&mut self.files, fd, flags, path(name)?).await?;
        Ok(self.shown(stat))
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        name: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let name = path(name)?;
        HostDescriptor::set_times_at(&mut self.files, fd, flags, name, accessed, modified).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        old: String,
        new_fd: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        let (old, new) = (path(old)?, path(new)?);
        self.making(&new.clone(), async |files| {
            HostDescriptor::link_at(files, fd, flags, old, new_fd, new).await
        })
        .await
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        name: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let (name, quota) = (path(name)?, self.quota()?);
        quota.open().map_err(refused)?;
        let share = quota.descriptor().await.ok_or(ErrorCode::Busy)?;
        // Nobody else makes files here, so what is not there yet is made now or not at all.
        let makes = open_flags.contains(OpenFlags::CREATE)
            && HostDescriptor::stat_at(&mut self.files, again(&fd), path_flags, name.clone())
                .await
                .is_err();
        if makes {
            quota.make().map_err(refused)?;
            quota.name(name.len());
        }
        let opened =
            HostDescriptor::open_at(&mut self.files, fd, path_flags, name, open_flags, flags).await;
        match &opened {
            Ok(fd) => {
                let file = match self.files.table.get(fd)? {
                    Descriptor::File(file) => &file.file,
                    Descriptor::Dir(directory) => &directory.dir,
                };
                quota.opened(file, share);
            }
            Err(_) if makes => quota.unmade(),
            Err(_) => {}
        }
        opened
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, name: String) -> FsResult<String> {
        HostDescriptor::readlink_at(&mut self.files, fd, path(name)?).await
    }

    async fn remove_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        name: String,
    ) -> FsResult<()> {
        HostDescriptor::remove_directory_at(&mut self.files, fd, path(name)?).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old: String,
        new_fd: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        let (old, new) = (path(old)?, path(new)?);
        self.quota()?.name(new.len());
        HostDescriptor::rename_at(&mut self.files, fd, old, new_fd, new).await
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        old: String,
        new: String,
    ) -> FsResult<()> {
        let (old, new) = (path(old)?, path(new)?);
        self.making(&new.clone(), async |files| {
            HostDescriptor::symlink_at(files, fd, old, new).await
        })
        .await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, name: String) -> FsResult<()> {
        HostDescriptor::unlink_file_at(&mut self.files, fd, path(name)?).await
    }

    async fn is_same_object(
        &mut self,
        fd: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        HostDescriptor::is_same_object(&mut self.files, fd, other).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        HostDescriptor::metadata_hash(&mut self.files, fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        name: String,
    ) -> FsResult<MetadataHashValue> {
        HostDescriptor::metadata_hash_at(&mut self.files, fd, flags, path(name)?).await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.files, fd)
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        HostDirectoryEntryStream::read_directory_entry(&mut self.files, stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        if let Some(quota) = &self.quota {
            quota.unlisted(stream.rep());
        }
        HostDirectoryEntryStream::drop(&mut self.files, stream)
    }
}
