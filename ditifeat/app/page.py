"""The layout of the page of `ditifeat demo`, by gradio (extra `[demo]`), and its server. Offline, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ditifeat.app.demo import MAX_SLIDERS, Cut, Demo, State
from ditifeat.app.telemetry import disable_telemetry
from ditifeat.errors import DitifeatError, FaceError, InputError, require

SLIDER_RANGE = 2.0  # of an attribute's slider, either way, in units of `edit`'s scale

# By the title of each choice: how an uploaded image is cut, and whether its face is found first.
CUTS = {
    "Find the face": Cut("model", "largest"),
    "The central square": Cut("center"),
    "As CelebA's aligned faces": Cut("model"),
}

SAMPLE_CUT = Cut("center")  # of the samples, which are cut already

INTRO = """# ditifeat
An image's code is cut into subsets that belong to diffusion time-steps. Choose an image, see what is lost when, and edit it."""

STYLE = """
#message p { font-weight: 600; color: #b45309; }
#samples img, #references img { cursor: pointer; }
#samples .grid-container, #references .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#samples, #references, #samples > div, #references > div { height: auto !important; min-width: 0 !important; overflow: hidden; }
#samples .grid-wrap, #references .grid-wrap { height: auto !important; min-height: 0 !important; overflow: hidden !important; }
#samples button, #references button { min-width: 0 !important; width: 100% !important; aspect-ratio: 1; }
footer { display: none !important; }
"""

# gradio puts its own prefix before the rules of STYLE, so those of the whole page go into its head.
HEAD = """<style>
.gradio-container .main { max-width: 1180px !important; margin: auto; }
@media (max-width: 640px) {
  .gradio-container, .gradio-container .main { min-width: 0 !important; max-width: 100vw !important; }
  .gradio-container .main { padding: 12px !important; box-sizing: border-box; }
}
</style>"""


def serve(demo: Demo, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until it is interrupted.

    Raises:
        MissingDependencyError: without gradio.
        InputError: if the port is taken.

    >>> from ditifeat.app.page import serve
    >>> serve(Demo(encoder), port=7861)  # doctest: +SKIP
    """
    gradio = load_gradio()
    try:
        Page(demo).blocks.launch(
            server_name=host,
            server_port=port,
            theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=STYLE,
            head=HEAD,
            max_file_size="20mb",
            share=False,
        )
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} of {host} cannot be used ({error}); choose another with --port") from error


def load_gradio() -> Any:
    """Import gradio, without its analytics.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    disable_telemetry()
    return require("gradio", "demo")


class Page:
    """The page's parts, and what they call. Images go out as PIL, messages as Markdown.

    Args:
        demo: what the page does.

    Attributes:
        blocks: gradio's `Blocks`.
    """

    def __init__(self, demo: Demo):
        self.demo = demo
        self.gr = gr = load_gradio()
        with gr.Blocks(title="ditifeat", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.state = gr.State({})
            gr.Markdown(INTRO)
            self.message = gr.Markdown("Choose a sample, or drop an image.", elem_id="message")
            with gr.Row():
                with gr.Column(min_width=280):
                    self._lay_out_input()
                with gr.Column(min_width=280):
                    self._lay_out_result()
                with gr.Column(min_width=280):
                    with gr.Tab("Attributes"):
                        self._lay_out_attributes()
                    with gr.Tab("Time-steps of another image"):
                        self._lay_out_reference()
            with gr.Accordion("What is lost at which time-step", open=True):
                self.lost = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="lost", format="png")
            self._connect()

    def _lay_out_input(self) -> None:
        self.samples = self._gallery("Samples of the diffusion model", "samples")
        self.upload = self.gr.File(label="Your image", type="filepath", elem_id="upload", height=120)
        of_faces = (
            "face" in self.demo.encoder.config.image.alignment
        )  # what is chosen at first; nothing else hangs on it
        value = list(CUTS)[0 if of_faces else 1]
        self.cut = self.gr.Radio(list(CUTS), value=value, label="Cut of your image", elem_id="cut")

    def _lay_out_result(self) -> None:
        self.before = self.gr.Image(label="Image", interactive=False, buttons=[], elem_id="before", format="png")
        self.after = self.gr.Image(label="Result", interactive=False, buttons=[], elem_id="after", format="png")
        self.download = self.gr.DownloadButton("Download the result", interactive=False, elem_id="download")

    def _lay_out_attributes(self) -> None:
        kinds, names = list(self.demo.reports) or ["none"], self.demo.default_attributes
        self.kind = self.gr.Radio(kinds, value=kinds[0], label="Directions with")
        self.shown = self.gr.Dropdown(
            self.demo.attributes, value=names, multiselect=True, label="Shown", max_choices=MAX_SLIDERS
        )
        self.sliders = [self._slider(names, i) for i in range(MAX_SLIDERS)]

    def _lay_out_reference(self) -> None:
        last = self.demo.encoder.partition.num_time_steps
        self.references = self._gallery("Take them from", "references")
        self.upload_reference = self.gr.File(label="Or from your image", type="filepath", elem_id="second", height=100)
        self.reference = self.gr.Image(label="Second image", interactive=False, buttons=[], height=140, format="png")
        self.lo = self.gr.Slider(0, last, 0, step=10, label="From time-step", elem_id="lo")
        self.hi = self.gr.Slider(0, last, 300, step=10, label="To time-step", elem_id="hi")
        self.share = self.gr.Slider(0, 1, 1, step=0.05, label="Share")

    def _connect(self) -> None:
        """What happens when: an image is chosen, a reference is chosen, a control is moved."""
        controls = [self.state, self.kind, self.shown, self.lo, self.hi, self.share, *self.sliders]
        chosen = [self.state, self.before, self.after, self.download, self.lost, self.message, *self.sliders]
        edited = [self.after, self.download, self.message]
        referred = [self.state, self.reference, self.message]

        def choose_sample(event: Any) -> Any:
            return self._choose(self.demo.samples[event.index], SAMPLE_CUT)

        def choose_sample_as_reference(state: State, event: Any) -> Any:
            return self._choose_reference(state, self.demo.samples[event.index], SAMPLE_CUT)

        # gradio asks a function's annotations whether it wants the event.
        for function in (choose_sample, choose_sample_as_reference):
            function.__annotations__["event"] = self.gr.SelectData
        self.samples.select(choose_sample, None, chosen)
        self.upload.upload(self._choose, [self.upload, self.cut], chosen)
        self.cut.input(self._choose, [self.upload, self.cut], chosen)
        self.references.select(choose_sample_as_reference, [self.state], referred).then(self._edit, controls, edited)
        self.upload_reference.upload(
            self._choose_reference, [self.state, self.upload_reference, self.cut], referred
        ).then(self._edit, controls, edited)
        self.shown.change(self._relabel, [self.shown], self.sliders)
        for control in (self.lo, self.hi, self.share, *self.sliders):
            control.release(self._edit, controls, edited)
        self.kind.input(self._edit, controls, edited)

    def _edit(self, state: State, kind: str, shown: list[str], lo: int, hi: int, share: float, *scales: float) -> Any:
        skip = self.gr.skip()
        if not state:
            return skip, skip, "Choose an image first."
        try:
            image, path = self.demo.edit(state, kind, dict(zip(shown, scales, strict=False)), (lo, hi), share)
        except DitifeatError as error:
            return skip, skip, str(error)
        return image, self.gr.DownloadButton(value=path, interactive=True), ""

    def _choose(self, path: str | Path | None, cut: str | Cut) -> Any:
        skips = [self.gr.skip()] * 5
        if path is None:
            return [*skips, self.gr.skip(), *[self.gr.skip()] * MAX_SLIDERS]
        try:
            state, image, lost = self.demo.choose(path, *_cut(cut))
        except DitifeatError as error:
            return [*skips, _for_visitors(error, path), *[self.gr.skip()] * MAX_SLIDERS]
        reconstruction, file = self.demo.edit(state, "", {}, (0, 0), 0.0)
        download = self.gr.DownloadButton(value=file, interactive=True)
        return [state, image, reconstruction, download, lost, "", *[0] * MAX_SLIDERS]

    def _choose_reference(self, state: State, path: str | Path | None, cut: str | Cut) -> Any:
        skip = self.gr.skip()
        if path is None or not state:
            return skip, skip, skip if path is None else "Choose the first image first."
        try:
            return *self.demo.choose_reference(state, path, *_cut(cut)), ""
        except DitifeatError as error:
            return skip, skip, _for_visitors(error, path)

    def _relabel(self, names: list[str]) -> list[Any]:
        labels = [_label(names, i) for i in range(MAX_SLIDERS)]
        return [self.gr.update(label=label, value=0, visible=bool(label)) for label in labels]

    def _gallery(self, label: str, name: str) -> Any:
        self.gr.Markdown(f"**{label}**")  # gallery labels lie over the images
        return self.gr.Gallery(
            [str(path) for path in self.demo.samples],
            show_label=False,
            columns=4,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id=name,
        )

    def _slider(self, names: list[str], index: int) -> Any:
        label, name = _label(names, index), f"slider{index}"
        return self.gr.Slider(-SLIDER_RANGE, SLIDER_RANGE, 0, step=0.1, label=label, visible=bool(label), elem_id=name)


def _cut(cut: str | Cut) -> Cut:
    return CUTS[cut] if isinstance(cut, str) else cut


def _label(names: list[str], index: int) -> str:
    return names[index].replace("_", " ") if index < len(names) else ""


def _for_visitors(error: DitifeatError, path: str | Path) -> str:
    """The message without the folder where the upload was put."""
    reason = str(error).replace(f"{path}: ", "").replace(str(path), "the file")
    if isinstance(error, FaceError):
        return f"The image {reason.split(';')[0]}. Choose another, or another cut."
    return f"This cannot be read: {reason}"
