//! Compares two reports.

use std::io::Write;

use console::style;
use serde_json::json;

use super::{
    figure::{Figure, Group, Measured, milliseconds},
    report::Report,
};
use crate::{Failure, output, output::Out};

/// One form of a case that is in both reports.
struct Change<'a> {
    case: &'a str,
    form: &'static str,
    before: Measured,
    after: Measured,
}

impl Change<'_> {
    /// Speed-up: the time before divided by the time after.
    fn speed(&self) -> f64 {
        self.before.median_seconds / self.after.median_seconds.max(1e-12)
    }

    /// Whether the interquartile ranges of the times are disjoint.
    fn is_clear(&self) -> bool {
        self.after.first_quartile_seconds > self.before.third_quartile_seconds
            || self.after.third_quartile_seconds < self.before.first_quartile_seconds
    }
}

/// Prints the changes in the cases that both reports have.
pub fn run(before: &Report, after: &Report, as_json: bool, out: &mut Out) -> Result<(), Failure> {
    let pairs: Vec<(&Figure, &Figure)> = before
        .figures
        .iter()
        .filter_map(|old| {
            let same = |new: &&Figure| new.group == old.group && new.case == old.case;
            Some((old, after.figures.iter().find(same)?))
        })
        .collect();
    if pairs.is_empty() {
        return Err(Failure::Argument { rule: "the two reports have no case in common".to_owned() });
    }
    let only = |report: &Report| report.figures.len() - pairs.len();
    if as_json {
        output::json(
            out,
            &json!({
                "before": {
                    "adapter": before.adapter, "date": before.date, "clock": before.clock, "only": only(before),
                },
                "after": { "adapter": after.adapter, "date": after.date, "clock": after.clock, "only": only(after) },
                "changes": pairs
                    .iter()
                    .flat_map(|(old, new)| changes(old, new))
                    .map(|change| json!({
                        "case": change.case,
                        "form": change.form,
                        "before_seconds": change.before.median_seconds,
                        "after_seconds": change.after.median_seconds,
                        "times_as_fast": change.speed(),
                        "clear": change.is_clear(),
                    }))
                    .collect::<Vec<_>>(),
            }),
        )?;
        return Ok(());
    }
    for (name, report) in [("A", before), ("B", after)] {
        writeln!(
            out,
            "{name}: {}  {} {}; {}; {}",
            style(&report.adapter).bold(),
            report.driver,
            report.driver_info,
            report.date,
            report.method()
        )?;
    }
    if before.clock != after.clock {
        writeln!(out, "The clocks differ, so only the percentages of the copy can be compared.")?;
    }
    for group in Group::ALL {
        let mut table = output::table(&["case", "form", "A", "of copy", "B", "of copy", "B is … × as fast", ""], 2);
        for (old, new) in pairs.iter().filter(|(old, _)| old.group == group) {
            for change in changes(old, new) {
                let mark = match (change.is_clear(), change.speed() > 1.0) {
                    (false, _) => "",
                    (true, true) => "▲",
                    (true, false) => "▼",
                };
                let share = |measured: &Measured| format!("{:.0} %", measured.per_cent_of_device_copy);
                table.add_row([
                    change.case.to_owned(),
                    change.form.to_owned(),
                    milliseconds(change.before.median_seconds),
                    share(&change.before),
                    milliseconds(change.after.median_seconds),
                    share(&change.after),
                    format!("{:.2}", change.speed()),
                    mark.to_owned(),
                ]);
            }
        }
        if !table.is_empty() {
            writeln!(out, "\n{}\n{table}", style(group.title()).bold())?;
        }
    }
    writeln!(out, "\n▲ ▼: faster or slower, and the interquartile ranges do not overlap.")?;
    for (name, report) in [("A", before), ("B", after)] {
        if only(report) > 0 {
            writeln!(out, "{} more cases are only in {name}.", only(report))?;
        }
    }
    Ok(())
}

/// Returns the changes of the forms that both figures have.
fn changes<'a>(old: &'a Figure, new: &Figure) -> Vec<Change<'a>> {
    let forms = [
        ("kernel", Some(old.kernel), Some(new.kernel)),
        ("copies", old.copies, new.copies),
        ("device copy", Some(old.device_copy), Some(new.device_copy)),
    ];
    let change = |(form, before, after): (_, Option<_>, Option<_>)| {
        Some(Change { case: &old.case, form, before: before?, after: after? })
    };
    forms.into_iter().filter_map(change).collect()
}
