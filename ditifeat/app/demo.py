"""A page to see and steer a picture: `ditifeat demo`. Offline, on this machine alone; needs the extra `[demo]`."""

from __future__ import annotations

import itertools
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import save_image, sheet, to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.editing.arguments import checked_direction
from ditifeat.editing.edit import attribute_edit, subset_edit
from ditifeat.editing.lost import lost
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import DitifeatError, InputError

STEPS = 20

SLIDERS = 6

FAMILIAR = ("Smiling", "Male", "Young", "Blond_Hair", "Heavy_Makeup", "Pale_Skin")  # the first to be shown

REACH = 2.0  # of an attribute's slider, in units of `edit`'s scale

KEPT = 100  # results that can still be downloaded

SHOWN = 320  # pixels a side on the page

CUTS: dict[str, Crop] = {"The central square": "center", "CelebA's aligned faces": "model"}

STYLE = """
#message p { font-weight: 600; color: #b45309; }
#samples img, #others img { cursor: pointer; }
#samples .grid-container, #others .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#samples, #others, #samples > div, #others > div { height: auto !important; min-width: 0 !important; overflow: hidden; }
#samples .grid-wrap, #others .grid-wrap { height: auto !important; min-height: 0 !important; overflow: hidden !important; }
#samples button, #others button { min-width: 0 !important; width: 100% !important; aspect-ratio: 1; }
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

INTRO = """# ditifeat
A picture's code is cut into parts that belong to diffusion time-steps. Choose a picture, see what is lost when, and steer it."""

State = dict[str, np.ndarray]  # z (1, d), x_T (1, C, h, w), and other (1, d) once there is a second picture


def demo(model: str | None = None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until it is interrupted.

    Raises:
        InputError: if gradio is missing or the port is taken.
        ModelError: for a model that has no frozen DM.
    """
    page = Page(ditifeat.load_encoder(model))
    gradio = _gradio()
    try:
        page.blocks().launch(
            server_name=host,
            server_port=port,
            theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=STYLE,
            head=HEAD,
            max_file_size="20mb",
            share=False,
        )
    except OSError as error:
        raise InputError(f"port {port} of {host} cannot be used ({error}); choose another with --port") from error


def _gradio() -> Any:
    import os

    # Before the import: gradio asks its makers for news otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs gradio: pip install 'ditifeat[demo]'") from error
    return gradio


class Page:
    """What the page's parts do. Pictures go out as PIL, messages as Markdown.

    Args:
        encoder: a DiTi or PDAE model's.

    Raises:
        ModelError, InputError: for a model without a frozen DM.
    """

    def __init__(self, encoder: Encoder):
        from ditifeat.model.diti import DiTi

        if not isinstance(encoder.model, DiTi):
            raise InputError(f"{encoder.config.name}: has no frozen DM, so the page has nothing to show")
        self.encoder = encoder
        self.model = encoder.model
        self.samples = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
        self.reports = {
            name: report
            for name, sparse in (("all dimensions", False), ("16 dimensions", True))
            if (report := encoder.attributes(sparse=sparse)) is not None
        }
        self._folder = tempfile.TemporaryDirectory(prefix="ditifeat-")
        self._numbers = itertools.count()
        self.choices = sorted(next(iter(self.reports.values()), ()))
        self.names = [name for name in FAMILIAR if name in self.choices] or self.choices[:SLIDERS]

    def _read(self, path: str | Path, cut: str) -> torch.Tensor:
        rows = next(batches(Path(path), self.encoder.config.image, 1, CUTS[cut]))[1]
        return load_images(rows, self.encoder.device)

    @torch.no_grad()
    def choose(self, path: str | Path, cut: str) -> tuple[State, Image.Image, Image.Image]:
        """A picture's state, the picture as the model sees it, and its ladder of time-steps.

        Raises:
            ImageDecodeError, InputError: for a file that is no picture, or too small a one.
        """
        x_0 = self._read(path, cut)
        z = self.encoder(x_0)
        x_T = self.model.invert(x_0, z, STEPS, "fixed_point")
        rows = lost(self.encoder, Path(path), (100, 300, 500, 700), crop=CUTS[cut])
        ladder = sheet({f"{title}, t = 100, 300, 500, 700": row for title, row in rows.items()})
        return {"z": z.cpu().numpy(), "x_T": x_T.cpu().numpy()}, _shown(to_pixels(x_0)[0]), ladder

    @torch.no_grad()
    def other(self, state: State, path: str | Path, cut: str) -> tuple[State, Image.Image]:
        """The state with a second picture's code, and that picture; errors as `choose`."""
        x_0 = self._read(path, cut)
        return state | {"other": self.encoder(x_0).cpu().numpy()}, _shown(to_pixels(x_0)[0])

    @torch.no_grad()
    def edit(
        self, state: State, kind: str, strengths: dict[str, float], lo: int, hi: int, amount: float
    ) -> tuple[Image.Image, str]:
        """The edited picture, and the path of a PNG of the model's own size.

        Args:
            state: of `choose`.
            kind: which of `reports` gives the directions.
            strengths: by attribute, in units of `edit`'s scale.
            lo, hi: time-steps; the subsets between them move towards the second picture's.
            amount: how far, 0..1.

        Raises:
            InputError: for an attribute that could not be probed.
        """
        z, x_T = (torch.from_numpy(state[key]).to(self.encoder.device) for key in ("z", "x_T"))
        changed = z
        if "other" in state and amount:
            other = torch.from_numpy(state["other"]).to(z)
            partition = self.encoder.partition
            changed = subset_edit(partition, changed, other, partition.subsets_of_time_steps(lo, hi), amount)
        for name, strength in strengths.items():
            if strength:
                weights, std = checked_direction(self.encoder, self.reports[kind][name])
                changed = attribute_edit(changed, weights, std, strength)
        pixels = to_pixels(self.model.sample(x_T, changed, STEPS, solver="fixed_point"))[0]
        number = next(self._numbers)
        path = Path(self._folder.name) / f"edited-{number}.png"
        save_image(Image.fromarray(pixels), path)
        path.with_name(f"edited-{number - KEPT}.png").unlink(missing_ok=True)
        return _shown(pixels), str(path)

    def blocks(self) -> Any:
        """The page, as gradio's `Blocks`."""
        gr = _gradio()
        with gr.Blocks(title="ditifeat", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            state = gr.State({})
            gr.Markdown(INTRO)
            message = gr.Markdown("Choose a sample, or drop a picture.", elem_id="message")
            with gr.Row():
                with gr.Column(min_width=280):
                    samples = self._gallery(gr, "Samples, made by the diffusion model", "samples")
                    upload = gr.File(label="Your picture", type="filepath", elem_id="upload", height=120)
                    cut = gr.Radio(list(CUTS), value=next(iter(CUTS)), label="Of your picture, take")
                with gr.Column(min_width=280):
                    before = gr.Image(label="Picture", interactive=False, buttons=[], elem_id="before", format="png")
                    after = gr.Image(label="Result", interactive=False, buttons=[], elem_id="after", format="png")
                    download = gr.DownloadButton("Download the result", interactive=False, elem_id="download")
                with gr.Column(min_width=280):
                    with gr.Tab("Attributes"):
                        kind = gr.Radio(
                            list(self.reports) or ["none"], value=next(iter(self.reports), "none"), label="By"
                        )
                        chosen = gr.Dropdown(
                            self.choices, value=self.names, multiselect=True, label="Shown", max_choices=SLIDERS
                        )
                        sliders = [self._slider(gr, i) for i in range(SLIDERS)]
                    with gr.Tab("Time-steps of another picture"):
                        others = self._gallery(gr, "Take them from", "others")
                        second = gr.File(label="Or from your picture", type="filepath", elem_id="second", height=100)
                        taken = gr.Image(
                            label="Second picture", interactive=False, buttons=[], height=140, format="png"
                        )
                        steps = self.encoder.partition.num_time_steps
                        lo = gr.Slider(0, steps, 0, step=10, label="From time-step", elem_id="lo")
                        hi = gr.Slider(0, steps, 300, step=10, label="To time-step", elem_id="hi")
                        amount = gr.Slider(0, 1, 1, step=0.05, label="Share")
            with gr.Accordion("What is lost at which time-step", open=True):
                ladder = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="ladder", format="png")

            controls = [state, kind, chosen, lo, hi, amount, *sliders]

            def steer(
                state: State, kind: str, chosen: list[str], lo: int, hi: int, amount: float, *values: float
            ) -> Any:
                if not state:
                    return gr.skip(), gr.skip(), "Choose a picture first."
                strengths = dict(zip(chosen, values, strict=False))
                try:
                    picture, path = self.edit(state, kind, strengths, lo, hi, amount)
                except DitifeatError as error:
                    return gr.skip(), gr.skip(), str(error)
                return picture, gr.DownloadButton(value=path, interactive=True), ""

            def choose(path: str | Path | None, cut: str) -> Any:
                if path is None:
                    return [gr.skip()] * (5 + SLIDERS + 1)
                try:
                    fresh, picture, rows = self.choose(path, cut)
                except DitifeatError as error:
                    return [*[gr.skip()] * 5, _explained_error(error), *[gr.skip()] * SLIDERS]
                kept, file = self.edit(fresh, "", {}, 0, 0, 0.0)
                return [fresh, picture, kept, gr.DownloadButton(value=file, interactive=True), rows, "", *[0] * SLIDERS]

            def take(state: State, path: str | Path | None, cut: str) -> Any:
                if path is None or not state:
                    return gr.skip(), gr.skip(), gr.skip() if path is None else "Choose the first picture first."
                try:
                    return *self.other(state, path, cut), ""
                except DitifeatError as error:
                    return gr.skip(), gr.skip(), _explained_error(error)

            def sample(event: Any) -> Any:
                return choose(self.samples[event.index], "The central square")

            def other_sample(state: State, event: Any) -> Any:
                return take(state, self.samples[event.index], "The central square")

            # gradio asks a function's annotations whether it wants the event.
            sample.__annotations__["event"] = other_sample.__annotations__["event"] = gr.SelectData
            shown = [state, before, after, download, ladder, message, *sliders]
            steered = [after, download, message]
            samples.select(sample, None, shown)
            upload.upload(choose, [upload, cut], shown)
            cut.input(choose, [upload, cut], shown)
            others.select(other_sample, [state], [state, taken, message]).then(steer, controls, steered)
            second.upload(take, [state, second, cut], [state, taken, message]).then(steer, controls, steered)
            chosen.change(lambda names: [_named(gr, names, i) for i in range(SLIDERS)], [chosen], sliders)
            for control in (lo, hi, amount, *sliders):
                control.release(steer, controls, steered)
            kind.input(steer, controls, steered)
        return blocks

    def _gallery(self, gr: Any, label: str, name: str) -> Any:
        gr.Markdown(f"**{label}**")  # gallery labels lie over the pictures
        pictures = [str(path) for path in self.samples]
        return gr.Gallery(
            pictures,
            show_label=False,
            columns=4,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id=name,
        )

    def _slider(self, gr: Any, index: int) -> Any:
        shown = index < len(self.names)
        label = _title(self.names[index]) if shown else ""
        return gr.Slider(-REACH, REACH, 0, step=0.1, label=label, visible=shown, elem_id=f"slider{index}")


def _named(gr: Any, names: list[str], index: int) -> Any:
    shown = index < len(names)
    return gr.Slider(label=_title(names[index]) if shown else "", value=0, visible=shown)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _explained_error(error: DitifeatError) -> str:
    """An error for the page, without the folder where the upload was put."""
    return f"This cannot be read: {str(error).split(': ', 1)[-1]}"


def _shown(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
