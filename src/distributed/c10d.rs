//! c10d behind safe types. The C++ side is `shim.cpp`.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::time::Duration;

use tch::{Device, Tensor};

unsafe extern "C" {
    fn c10d_store(
        host: *const c_char,
        port: u16,
        serves: bool,
        listener: c_int,
        timeout_ms: i64,
        store: *mut *mut c_void,
        bound: *mut u16,
    ) -> *mut c_char;
    fn c10d_gloo(
        store: *mut c_void,
        prefix: *const c_char,
        host: *const c_char,
        interfaces: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    fn c10d_has_nccl() -> bool;
    fn c10d_nccl_versions(built: *mut u64, found: *mut u64);
    fn c10d_nccl(
        store: *mut c_void,
        prefix: *const c_char,
        device: c_int,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    fn c10d_all_reduce(group: *mut c_void, tensor: *mut c_void) -> *mut c_char;
    fn c10d_broadcast(group: *mut c_void, tensor: *mut c_void, root: c_int) -> *mut c_char;
    fn c10d_all_gather(group: *mut c_void, gathered: *mut c_void, own: *mut c_void) -> *mut c_char;
    fn c10d_settle(group: *mut c_void, timeout_ms: i64) -> *mut c_char;
    fn c10d_abort(group: *mut c_void);
    fn c10d_free_group(group: *mut c_void, shut_down: bool);
    fn c10d_free_store(store: *mut c_void);
    fn c10d_free(text: *mut c_char);
}

/// The first line of libtorch's text, if there is one.
fn result(text: *mut c_char) -> Result<(), String> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a string that ends in 0, which is freed here and nowhere else.
    let message = unsafe {
        let message = CStr::from_ptr(text).to_string_lossy().into_owned();
        c10d_free(text);
        message
    };
    let line = message.lines().next().unwrap_or("no reason given");
    // Without the place in Gloo's source and its advice.
    let line = line.split_once(".cc:").and_then(|(_, rest)| rest.split_once("] ")).map_or(line, |(_, rest)| rest);
    Err(line.split(". This is typically").next().unwrap_or(line).to_owned())
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} holds a zero byte"))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whether `host` is this machine to itself.
pub(super) fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1")
}

/// The network over which Gloo's processes talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// That of the machine's own name.
    Default,
    /// That of an address of this machine.
    Address(String),
    /// Interfaces by their names, with commas between.
    Interfaces(String),
}

/// Where processes find each other: a server in one of them, clients in all.
#[derive(Debug)]
pub struct Store {
    handle: *mut c_void,
    port: u16,
}

impl Store {
    /// Connects to `host`:`port`, or serves there (port 0: any free one).
    ///
    /// # Errors
    /// libtorch's reason, at the latest after `timeout`.
    pub fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self, String> {
        let (name, mut handle, mut bound) = (c_string(host)?, ptr::null_mut(), 0);
        // c10d by itself would listen on every address of the machine.
        let is_private = serves && is_loopback(host);
        let listener = is_private.then(|| TcpListener::bind((host, port))).transpose();
        let listener = listener.map_err(|error| format!("{host}:{port} cannot be listened on: {error}"))?;
        let port = listener.as_ref().and_then(|listener| listener.local_addr().ok()).map_or(port, |at| at.port());
        // c10d closes it.
        let listener = listener.map_or(-1, IntoRawFd::into_raw_fd);
        // SAFETY: the string and both places outlive the call.
        result(unsafe {
            c10d_store(name.as_ptr(), port, serves, listener, milliseconds(timeout), &raw mut handle, &raw mut bound)
        })?;
        Ok(Self { handle, port: bound })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { c10d_free_store(self.handle) }
    }
}

/// Processes that run the same collectives in the same order.
#[derive(Debug)]
pub struct Group {
    handle: *mut c_void,
    size: i64,
    device: Device,
    /// Whether its collectives were ended.
    is_broken: Cell<bool>,
    /// Its time-out.
    milliseconds: i64,
}

/// Whether the program was built with NCCL's headers.
#[must_use]
pub fn has_nccl() -> bool {
    // SAFETY: it answers from a constant.
    unsafe { c10d_has_nccl() }
}

/// Versions of NCCL's header and of the library that runs, for instance 2.29.7; none without NCCL.
#[must_use]
pub fn nccl_versions() -> Option<[String; 2]> {
    let (mut built, mut found) = (0, 0);
    // SAFETY: two numbers are filled in.
    unsafe { c10d_nccl_versions(&raw mut built, &raw mut found) };
    let shown = |version: u64| format!("{}.{}.{}", version >> 32, version >> 16 & 0xffff, version & 0xffff);
    (built > 0).then(|| [built, found].map(shown))
}

impl Group {
    /// Gloo's group of `size` processes, found through `store` below `prefix`, over the network `network`.
    ///
    /// # Errors
    /// libtorch's reason, at the latest after `timeout`, which bounds every collective as well.
    pub fn gloo(
        store: &Store,
        prefix: &str,
        network: &Network,
        rank: usize,
        size: usize,
        timeout: Duration,
    ) -> Result<Self, String> {
        let (host, interfaces) = match network {
            Network::Default => ("", ""),
            Network::Address(host) => (host.as_str(), ""),
            Network::Interfaces(names) => ("", names.as_str()),
        };
        let (prefix, host, interfaces) = (c_string(prefix)?, c_string(host)?, c_string(interfaces)?);
        let mut handle = ptr::null_mut();
        let milliseconds = milliseconds(timeout);
        // SAFETY: strings, store and place outlive the call.
        result(unsafe {
            c10d_gloo(
                store.handle,
                prefix.as_ptr(),
                host.as_ptr(),
                interfaces.as_ptr(),
                rank as c_int,
                size as c_int,
                milliseconds,
                &raw mut handle,
            )
        })?;
        Ok(Self { handle, size: size as i64, device: Device::Cpu, is_broken: Cell::new(false), milliseconds })
    }

    /// NCCL's group on `device`; else as [`Self::gloo`].
    ///
    /// # Errors
    /// When there is no CUDA device, the program was built without NCCL, or libtorch's reason.
    pub fn nccl(
        store: &Store,
        prefix: &str,
        device: Device,
        rank: usize,
        size: usize,
        timeout: Duration,
    ) -> Result<Self, String> {
        let Device::Cuda(number) = device else { return Err("NCCL needs a CUDA device".to_owned()) };
        let prefix = c_string(prefix)?;
        let (mut handle, milliseconds) = (ptr::null_mut(), milliseconds(timeout));
        // SAFETY: string, store and place outlive the call.
        result(unsafe {
            c10d_nccl(
                store.handle,
                prefix.as_ptr(),
                number as c_int,
                rank as c_int,
                size as c_int,
                milliseconds,
                &raw mut handle,
            )
        })?;
        Ok(Self { handle, size: size as i64, device, is_broken: Cell::new(false), milliseconds })
    }

    /// Waits until the collectives that were begun are done. Gloo's are when they return, NCCL's when the device comes to them.
    ///
    /// # Errors
    /// libtorch's reason, at the latest after the group's time-out.
    pub fn settle(&self) -> Result<(), String> {
        if self.is_broken.get() {
            return Err("the group was ended".to_owned());
        }
        if !self.device.is_cuda() {
            return Ok(());
        }
        // SAFETY: the handle is alive.
        result(unsafe { c10d_settle(self.handle, self.milliseconds) })
    }

    /// Ends what the device would wait for without end; nothing more can be done with the group.
    pub fn abort(&self) {
        if self.device.is_cuda() && !self.is_broken.replace(true) {
            // SAFETY: the handle is alive.
            unsafe { c10d_abort(self.handle) }
        }
    }

    /// Where the tensors of its collectives have to be.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Puts the sum over all processes into `tensor` (contiguous, on the group's device).
    ///
    /// # Errors
    /// libtorch's reason.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), String> {
        // SAFETY: both handles are alive; a tch tensor is an `at::Tensor*`.
        result(unsafe { c10d_all_reduce(self.handle, tensor.as_mut_ptr().cast()) })
    }

    /// Puts process `root`'s values into `tensor` (contiguous, on the group's device).
    ///
    /// # Errors
    /// libtorch's reason.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), String> {
        // SAFETY: as above.
        result(unsafe { c10d_broadcast(self.handle, tensor.as_mut_ptr().cast(), root as c_int) })
    }

    /// The rows of all processes, [W · b, ...], from `own` [b, ...] (contiguous, on the group's device, of one shape everywhere).
    ///
    /// # Errors
    /// libtorch's reason.
    pub fn all_gather(&self, own: &Tensor) -> Result<Tensor, String> {
        let mut shape = own.size();
        shape[0] *= self.size;
        let mut gathered = Tensor::empty(&shape, (own.kind(), own.device()));
        let mut own = own.shallow_clone();
        // SAFETY: as above.
        result(unsafe { c10d_all_gather(self.handle, gathered.as_mut_ptr().cast(), own.as_mut_ptr().cast()) })?;
        Ok(gathered)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { c10d_free_group(self.handle, !self.is_broken.get()) }
    }
}
