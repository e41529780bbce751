//! What the stand-ins have in common: a state that a test sees, and a server on loopback that it can stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use tokio::net::TcpListener;

use crate::faults::{Fault, Faults};
use crate::server::{Reserved, Running, listen};
use crate::state::Shared;

/// A stand-in with the state `M`. Clones are the same stand-in.
pub struct StandIn<M> {
    shared: Shared<M>,
    router: Router,
    running: Arc<Mutex<Option<Running>>>,
    reserved: Reserved,
    /// The address that it listens on.
    pub(crate) address: SocketAddr,
}

impl<M> Clone for StandIn<M> {
    fn clone(&self) -> StandIn<M> {
        StandIn {
            shared: self.shared.clone(),
            router: self.router.clone(),
            running: self.running.clone(),
            reserved: self.reserved.clone(),
            address: self.address,
        }
    }
}

impl<M> StandIn<M> {
    /// Starts it on a free port of loopback.
    pub(crate) async fn serve(model: M, router: impl FnOnce(Shared<M>) -> Router) -> io::Result<StandIn<M>> {
        let (shared, reserved) = (Shared::new(model), Reserved::default());
        let router = router(shared.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let running = listen(listener, router.clone(), reserved.clone())?;
        let address = running.address;
        Ok(StandIn { shared, router, running: Arc::new(Mutex::new(Some(running))), reserved, address })
    }

    /// Stops listening: connections are refused. The state stays.
    pub fn stop(&self) {
        *self.slot() = None;
    }

    /// Listens again at the same address.
    pub async fn restart(&self) -> io::Result<()> {
        let running = self.reserved.listen(self.address, self.router.clone())?;
        *self.slot() = Some(running);
        Ok(())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives access to the state.
    pub fn model(&self) -> MutexGuard<'_, M> {
        self.shared.model()
    }

    /// Waits until the state meets a condition.
    pub async fn wait_until(&self, condition: impl FnMut(&M) -> bool) {
        self.shared.wait_until(condition).await;
    }
}

impl<M: AsMut<Faults>> StandIn<M> {
    /// Queues faults of the next requests that act.
    pub fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        self.model().as_mut().queue.extend(faults);
    }
}
