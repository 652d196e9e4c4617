//! Reading faults and their bundles, and releasing what they have quarantined.

use tocsin_engine::domain::{Alert, AlertId, FaultId, Symbol, Tenant};
use tocsin_store::{FaultRecord, StoredBundle, Unquarantined};

use super::alerts::no_alert;
use super::rules::rule_quarantined;
use super::{Control, ControlError, Page, page, page_size};

impl Control {
    /// Unquarantines an alert's bindings, all or that on one symbol: they are evaluated again from within milliseconds
    /// on, on probe: one fault quarantines them again.
    pub async fn release_alert(&self, tenant: &Tenant, id: i64, symbol: Option<&str>) -> Result<Alert, ControlError> {
        let symbol = symbol.map(Symbol::parse).transpose();
        let symbol = symbol.map_err(|error| ControlError::invalid("symbol", error.to_string()))?;
        match self.0.store.unquarantine(tenant, AlertId(id), symbol.as_ref()).await? {
            Unquarantined::Unquarantined(alert) => Ok(alert),
            Unquarantined::BeingPromoted => {
                Err(ControlError::Busy(format!("alert {id} is being promoted: release it again in a moment")))
            }
            Unquarantined::NoAlert => Err(no_alert(id)),
            Unquarantined::RuleQuarantined(quarantine) => {
                let alert = self.alert(tenant, id).await?;
                Err(rule_quarantined(&alert.rule, &quarantine))
            }
            Unquarantined::NothingQuarantined(alert) => Err(match symbol {
                Some(symbol) if alert.bindings.iter().all(|binding| binding.symbol != symbol) => {
                    ControlError::invalid("symbol", format!("alert {id} does not watch {symbol}"))
                }
                Some(symbol) => ControlError::Precondition(format!("alert {id} is not quarantined on {symbol}")),
                None => ControlError::Precondition(format!("alert {id} is not quarantined on any symbol")),
            }),
        }
    }

    /// An alert's faults, oldest first: the newest few of each symbol. `after` is a page's cursor.
    pub async fn faults(
        &self,
        tenant: &Tenant,
        alert: i64,
        after: Option<&str>,
        limit: Option<i64>,
    ) -> Result<Page<FaultRecord>, ControlError> {
        // A number and not a fault's id: the fault may be gone before the next page is asked for.
        let after = match after {
            None | Some("") => Ok(0),
            Some(cursor) => cursor
                .parse::<u32>()
                .map_err(|_| ControlError::invalid("after", "is not the cursor of a page of faults")),
        };
        let (limit, after) = page(page_size(limit, "limit"), after)?;
        let alert = self.alert(tenant, alert).await?.id;
        let faults = self.0.store.faults(tenant, alert, after.into(), limit + 1).await?;
        let page = Page::of(faults, limit, |(seq, _)| seq.to_string());
        Ok(Page { items: page.items.into_iter().map(|(_, fault)| fault).collect(), next: page.next })
    }

    /// What it takes to see a fault again.
    pub async fn fault_bundle(&self, tenant: &Tenant, id: &str) -> Result<StoredBundle, ControlError> {
        let parsed: FaultId = id.parse().map_err(|_| ControlError::invalid("id", "is not the id of a fault"))?;
        let bundle = self.0.store.fault_bundle(tenant, parsed).await?;
        bundle.ok_or_else(|| {
            ControlError::NotFound(format!(
                "there is no fault {parsed}: only the newest few of each alert and symbol are kept"
            ))
        })
    }
}
