//! The report as one self-contained HTML page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    figure::{Chosen, Figure, Group, HEADS, Measured, milliseconds},
    plot,
    report::Report,
};
use crate::output;

const STYLE: &str = "
:root { color: #1f2937; background: #f3f4f6; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
.driver { color: #6b7280; margin: 0 0 1.5rem; }
section { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 1.2rem 1.4rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: #6b7280; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 440px; max-width: 620px; }
figcaption { color: #6b7280; font-size: .9rem; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; margin-top: .8rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: #6b7280; border-bottom: 1px solid #d1d5db; padding: .25rem .6rem; }
td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #f3f4f6; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.chosen { background: #eff6ff; font-weight: 600; } .spread { color: #9ca3af; }
.wide { overflow-x: auto; } footer { color: #6b7280; font-size: .9rem; }
";

/// Generates the page.
pub fn html(report: &Report) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "kv-cache bench: " (report.adapter) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (report.adapter) }
                p.driver { (report.device_type) ", " (report.driver) " " (report.driver_info) ", " (report.date) }
                section { h2 { "Device and method" } (device(report)) }
                @for group in Group::ALL {
                    @let figures: Vec<_> = report.figures_of(group).collect();
                    @if !figures.is_empty() {
                        section {
                            h2 { (group.title()) }
                            div.plots { (plots(group, &figures)) }
                            div.wide { (table(&figures)) }
                        }
                    }
                }
                @if let Some(prediction) = &report.prediction {
                    p { (prediction.text()) }
                }
                footer {
                    "±: half the interquartile range. Per cent: share of the bandwidth of the device's own copy of the "
                    "same bytes in the same run. Tinted: the form that the cost model, calibrated on this device, "
                    "chooses. The model includes the host's time to record a copy, which device timestamps do not "
                    "measure. Made by "
                    "wgpu-kv-cache " (env!("CARGO_PKG_VERSION")) "."
                }
            }
        }
    };
    page.into_string()
}

fn device(report: &Report) -> Markup {
    html! {
        dl {
            dt { "clock" } dd { (report.method()) }
            dt { "cost model" } dd { (report.costs()) }
            dt { "KV heads" } dd { (HEADS) }
            @for limit in &report.limits {
                dt { (limit.name) } dd { (output::count(limit.value)) }
            }
        }
    }
}

fn plots(group: Group, figures: &[&Figure]) -> Markup {
    let plot = |caption: String, svg: String| html! { figure { (PreEscaped(svg)) figcaption { (caption) } } };
    let of_dim = |dim: u32| figures.iter().copied().filter(|figure| figure.head_dim == dim).collect::<Vec<_>>();
    let mut batches: Vec<u32> = figures.iter().map(|figure| figure.batch).collect();
    batches.dedup();
    html! {
        @match group {
            Group::Prefill => {
                @for dim in [64, 128] {
                    (plot(format!("Bandwidth of an update, {HEADS} heads of {dim}"), plot::bandwidth(&of_dim(dim), "tokens")))
                }
            }
            Group::Range => (plot("Bandwidth of a range".to_owned(), plot::bandwidth(figures, "rows"))),
            Group::Decode => {
                (plot("Time of a step through all layers. ●: the cost model's choice".to_owned(), plot::times(figures)))
            }
            Group::Attention => {
                @for batch in batches {
                    @let figures: Vec<_> = figures.iter().copied().filter(|figure| figure.batch == batch).collect();
                    (plot(format!("Cache read by an attention of batch {batch}"), plot::series(&figures, "positions")))
                }
            }
            Group::Conversion => (plot("Time of an update that converts".to_owned(), plot::times(figures))),
        }
    }
}

fn table(figures: &[&Figure]) -> Markup {
    html! {
        table {
            tr {
                th { "case" } th { "bytes" } th colspan="3" { "as kernels" } th colspan="3" { "as copies" } th { "device's copy" }
            }
            @for figure in figures {
                tr {
                    td { (figure.case) }
                    td { (output::bytes(figure.bytes)) }
                    (form(Some(&figure.kernel), figure.chosen == Chosen::Kernel))
                    (form(figure.copies.as_ref(), figure.chosen == Chosen::Copies))
                    td { (format!("{:.2} GB/s", figure.device_copy.gigabytes_per_second)) }
                }
            }
        }
    }
}

fn form(measured: Option<&Measured>, chosen: bool) -> Markup {
    let class = chosen.then_some("chosen");
    html! {
        @match measured {
            None => { td {} td {} td {} }
            Some(measured) => {
                td class=[class] { (milliseconds(measured.median_seconds)) " " span.spread { (format!("±{:.0} %", measured.spread())) } }
                td class=[class] { (format!("{:.2} GB/s", measured.gigabytes_per_second)) }
                td class=[class] { (format!("{:.0} %", measured.per_cent_of_device_copy)) }
            }
        }
    }
}
