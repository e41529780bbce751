//! The state of a stand-in, which its endpoints and a test share.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// A model, and a signal for each change. Clones share both.
pub(crate) struct Shared<M> {
    model: Arc<Mutex<M>>,
    changes: watch::Sender<()>,
}

impl<M> Clone for Shared<M> {
    fn clone(&self) -> Shared<M> {
        Shared { model: self.model.clone(), changes: self.changes.clone() }
    }
}

impl<M> Shared<M> {
    pub(crate) fn new(model: M) -> Shared<M> {
        Shared { model: Arc::new(Mutex::new(model)), changes: watch::Sender::default() }
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, M> {
        self.model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the model, and wakes everything that waits for a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        let changed = change(&mut self.model());
        self.changes.send_replace(());
        changed
    }

    /// Waits until the model meets a condition.
    pub(crate) async fn wait_until(&self, mut condition: impl FnMut(&M) -> bool) {
        let mut changes = self.changes.subscribe();
        while !condition(&self.model()) {
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }
}
