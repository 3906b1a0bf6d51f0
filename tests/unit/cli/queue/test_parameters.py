"""A picture's settings as galleries read them, whichever nodes of the graph say them."""

import json
import time

import pytest
from craft_lora_pack.cli.queue.loras import GOES_BY_MARKERS, loras_of
from craft_lora_pack.cli.queue.parameters import parameters_text
from craft_lora_pack.cli.queue.resources import called, resource_files
from craft_lora_pack.cli.queue.sampling import sampler_words, sampling_of, scheduler_words
from unet_layers import sdxl_layers

from craft_core.fusion import FUSION
from craft_core.routing import parse
from craft_core.routing.plan import CandidateLora, PlanRequest, plan
from craft_core.types import Branch

DOG, INK, OLD = "animals/dog.safetensors", "ink.safetensors", "old one.safetensors"
MODEL = "sdxl\\base.safetensors"
HASHES = {DOG: "d" * 64, INK: "1" * 64, MODEL: "0123456789" + "e" * 54}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**more):
    """Loaders, texts and a latent; the nodes of `more` are to sample."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=MODEL),
        "good": node("CLIPTextEncode", text="a cat", clip=["model", 1]),
        "bad": node("CLIPTextEncode", text="blurry", clip=["model", 1]),
        "empty": node("EmptyLatentImage", width=64, height=96, batch_size=1),
        **more,
    }


def ksampler(**more):
    given = {"model": ["model", 0], "positive": ["good", 0], "negative": ["bad", 0],
             "latent_image": ["empty", 0], "seed": 7, "steps": 20, "cfg": 6.5,
             "sampler_name": "dpmpp_2m", "scheduler": "karras"}  # fmt: skip
    return node("KSampler", **given | more)


def custom(guider, **more):
    """SamplerCustomAdvanced with what it takes; `more` is put in place of nodes of it."""
    nodes = {
        "noise": node("RandomNoise", noise_seed=0),
        "which": node("KSamplerSelect", sampler_name="euler_ancestral"),
        "course": node("BasicScheduler", model=["model", 0], scheduler="sgm_uniform", steps=12,
                       denoise=1.0),
        "guider": guider,
        "sampler": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
                        sampler=["which", 0], sigmas=["course", 0], latent_image=["empty", 0]),
    }  # fmt: skip
    return graph(**nodes | more)


def guider(kind, **more):
    return node(kind, **{"model": ["model", 0], "positive": ["good", 0], "negative": ["bad", 0],
                         "cfg": 3.5} | more)  # fmt: skip


BASIC = node("BasicGuider", model=["model", 0], conditioning=["good", 0])
NO_CFG = "a cat\nSteps: 12, Sampler: Euler a, Schedule type: SGM Uniform, Seed: 0, "
END = "Size: 64x96, Model: base"
WHOLE = (
    "a cat\nNegative prompt: blurry\nSteps: 12, Sampler: Euler a, Schedule type: SGM Uniform, "
    "CFG scale: 3.5, Seed: 0, " + END
)
CUT = node("SplitSigmas", sigmas=["cut of", 0], step=6)
KARRAS = node("KarrasScheduler", steps=9, sigma_max=14.6, sigma_min=0.03, rho=7.0)
GRAPHS = {
    "KSampler": (
        graph(k=ksampler()),
        "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, "
        "Schedule type: Karras, CFG scale: 6.5, Seed: 7, " + END,
    ),
    "CFGGuider": (custom(guider("CFGGuider")), WHOLE),
    "ACFG Guider": (custom(guider("CRAFTACFGGuider", asymmetric=True)), WHOLE),
    "BasicGuider": (custom(BASIC), NO_CFG + END),
    "DualCFGGuider": (
        custom(node("DualCFGGuider", model=["model", 0], cond1=["good", 0], cond2=["bad", 0],
                    negative=["bad", 0], cfg_conds=3.5, cfg_cond2_negative=8.0)),  # fmt: skip
        WHOLE,
    ),
    "the seed in a node of its own": (
        custom(BASIC, noise=node("RandomNoise", noise_seed=["number", 0]),
               number=node("PrimitiveInt", value=99)),  # fmt: skip
        (NO_CFG + END).replace("Seed: 0", "Seed: 99"),
    ),
    "steps that are cut": (custom(BASIC, course=CUT) | {
        "cut of": node("BasicScheduler", model=["model", 0], scheduler="sgm_uniform", steps=12)},
        NO_CFG + END,
    ),
    "a scheduler of its own kind": (
        custom(BASIC, course=KARRAS),
        "a cat\nSteps: 9, Sampler: Euler a Karras, Schedule type: Karras, Seed: 0, " + END,
    ),
    "a sampler of its own kind": (
        custom(BASIC, which=node("SamplerDPMPP_2M_SDE", solver_type="midpoint", eta=1.0)),
        (NO_CFG + END).replace("Euler a", "DPM++ 2M SDE"),
    ),
    "sigmas by hand": (
        custom(BASIC, course=node("ManualSigmas", sigmas="1, 0.5")),
        "a cat\nSampler: Euler a, Seed: 0, " + END,
    ),
    "two in a row": (
        {"none": node("DisableNoise"),
         "last": node("SamplerCustomAdvanced", noise=["none", 0], guider=["guider", 0],
                      sampler=["which", 0], sigmas=["course", 0], latent_image=["sampler", 0]),
         } | custom(BASIC),
        NO_CFG + END,
    ),
    "SamplerCustom": (
        graph(
            which=node("KSamplerSelect", sampler_name="euler_ancestral"),
            course=node("BasicScheduler", model=["model", 0], scheduler="sgm_uniform", steps=12),
            k=node("SamplerCustom", model=["model", 0], noise_seed=0, cfg=3.5, add_noise=True,
                   positive=["good", 0], negative=["bad", 0], sampler=["which", 0],
                   sigmas=["course", 0], latent_image=["empty", 0]),
        ),
        WHOLE,
    ),
    "no sampler": (graph(), ""),
    "no seed": (custom(BASIC, noise=node("DisableNoise")), ""),
    "links to nothing": (
        {"k": node("SamplerCustomAdvanced", noise_seed=1, sampler=["x", 0], sigmas=["y", 0])},
        "\nSeed: 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_settings_are_found_through_the_links(case):
    prompt, text = GRAPHS[case]
    assert parameters_text(prompt) == text


@pytest.mark.parametrize(
    ("sampler", "scheduler", "words"),
    [
        ("euler", "normal", ("Euler", "Normal")),
        ("dpmpp_2m", "karras", ("DPM++ 2M Karras", "Karras")),
        ("dpmpp_2m_sde_gpu", "exponential", ("DPM++ 2M SDE Exponential", "Exponential")),
        ("dpmpp_3m_sde_gpu", "simple", ("DPM++ 3M SDE", "Simple")),
        ("dpmpp_2s_ancestral", "ddim_uniform", ("DPM++ 2S a", "DDIM")),
        ("dpm_2_ancestral", "beta", ("DPM2 a", "Beta")),
        ("uni_pc_bh2", "kl_optimal", ("UniPC", "KL Optimal")),
        ("SamplerEulerAncestral", "ExponentialScheduler", ("Euler a Exponential", "Exponential")),
        ("SamplerLMS", "AlignYourStepsScheduler", ("LMS", "Align Your Steps")),
        ("res_multistep", "karras", ("res_multistep", "Karras")),
        ("euler_cfg_pp", "linear_quadratic", ("euler_cfg_pp", "linear_quadratic")),
        ("SamplerER_SDE", "SDTurboScheduler", ("SamplerER_SDE", "SDTurboScheduler")),
        (None, None, (None, None)),
    ],
)
def test_samplers_are_called_as_the_web_ui_calls_them(sampler, scheduler, words):
    assert (sampler_words(sampler, scheduler), scheduler_words(scheduler)) == words


def router(**more):
    return node("CRAFTRouter", **{
        "model": ["model", 0], "clip": ["model", 1], "prompt": "<c>a cat</c> in <s>ink</s>",
        "content_lora": DOG, "style_lora": INK, "content_strength": 0.75, "style_strength": 0.5,
    } | more)  # fmt: skip


ROWS = [{"lora": OLD, "role": "style", "strength": 0.25}, {"lora": "off.safetensors", "on": False},
        {"lora": "bare.sft", "role": "style"}]  # fmt: skip
LORAS = {
    "LoraLoader": (
        {"l": node("LoraLoader", model=["model", 0], lora_name=DOG, strength_model=0.8,
                   strength_clip=1.0)},
        "<lora:dog:0.8>"),
    "LoraLoaderModelOnly twice": (
        {"l": node("LoraLoaderModelOnly", model=["l2", 0], lora_name=INK, strength_model=1),
         "l2": node("LoraLoaderModelOnly", model=["model", 0], lora_name=DOG, strength_model=-0.5)},
        "<lora:ink:1> <lora:dog:-0.5>"),
    "the same file twice": (
        {"l": node("LoraLoader", model=["l2", 0], lora_name=INK, strength_model=1),
         "l2": node("LoraLoader", model=["model", 0], lora_name=INK, strength_model=2)},
        "<lora:ink:3>"),
    "at 0": ({"l": node("LoraLoader", model=["model", 0], lora_name=DOG, strength_model=0)}, ""),
    "a linked strength": (
        {"l": node("LoraLoader", model=["model", 0], lora_name=DOG, strength_model=["n", 0]),
         "n": node("PrimitiveFloat", value=0.3)},
        "<lora:dog:0.3>"),
    "a Router": ({"l": router()}, "<lora:dog:0.75> <lora:ink:0.5>"),
    "a Router of one": ({"l": router(style_lora="none")}, "<lora:dog:0.75>"),
    "a Router behind a loader": (
        {"l": router(model=["l2", 0]),
         "l2": node("LoraLoader", model=["model", 0], lora_name=OLD, strength_model=0.2)},
        "<lora:dog:0.75> <lora:ink:0.5> <lora:old one:0.2>"),
    "second files that count": (
        {"l": router(second_model=["model", 0], second_content_lora="same",
                     second_style_lora="low.safetensors")},
        "<lora:dog:0.75> <lora:ink:0.5> <lora:low:0.5>"),
    "second files that do not count": (
        {"l": router(second_style_lora="low.safetensors")}, "<lora:dog:0.75> <lora:ink:0.5>"),
    "a list": (
        {"l": router(content_lora="none", style_lora="none", extra_branches=["list", 0]),
         "list": node("CRAFTLoRAList", loras=json.dumps(ROWS))},
        "<lora:old one:0.125> <lora:bare:0.5>"),
    "a branch": (
        {"l": router(extra_branches=["b", 0]),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="style", strength=0.4,
                   second_lora="same")},
        "<lora:dog:0.75> <lora:ink:0.5> <lora:old one:0.2>"),
    "a branch of two roles' file": (
        {"l": router(extra_branches=["b", 0]),
         "b": node("CRAFTLoadLoRABranch", lora=DOG, role="style", strength=0.5)},
        "<lora:dog:1> <lora:ink:0.5>"),
    "a branch for a second model": (
        {"l": router(extra_branches=["b", 0], second_model=["model", 0]),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="style", strength=0.4,
                   second_lora="low.safetensors")},
        "<lora:dog:0.75> <lora:ink:0.5> <lora:old one:0.2> <lora:low:0.2>"),
    "a second file of a role that is off": (
        {"l": router(prompt="<c>a cat</c> in ink", method="craft", second_model=["model", 0],
                     second_content_lora="low.safetensors", second_style_lora=OLD)},
        "<lora:dog:0.75> <lora:low:0.75>"),
    "a dial at 0": (
        {"l": router(style_strength=0, extra_branches=["b", 0]),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="style", strength=0.4)},
        "<lora:dog:0.75>"),
    "a role without its marker": (
        {"l": router(prompt="a cat in <S>ink</S>", method="craft")}, "<lora:ink:0.5>"),
    "a prompt in a node of its own": (
        {"l": router(prompt=["p", 0], method="k_lora"),
         "p": node("PrimitiveStringMultiline", value="<c>a cat</c> in ink")},
        "<lora:dog:0.75>"),
    "a method without markers": (
        {"l": router(prompt="a cat in ink", method="direct")}, "<lora:dog:0.75> <lora:ink:0.5>"),
    "two Routers in a row": (
        {"l": router(model=["l2", 0], style_lora="none", extra_branches=["b", 0]),
         "l2": router(content_lora="none", content_strength=0.5, extra_branches=["b", 0]),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="content", strength=0.4)},
        "<lora:dog:0.75> <lora:old one:0.5> <lora:ink:0.5>"),
    "a trainer of an encoder": (
        {"l": router(expert_encoder=["e", 0]),
         "e": node("CRAFTTrainEncoder", branches=["b", 0], save_name="e"),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="content", strength=0.4)},
        "<lora:dog:0.75> <lora:ink:0.5>"),
    "a chain through a trainer": (
        {"l": router(extra_branches=["t", 0]),
         "t": node("CRAFTTrainLoRA", model=["x", 0], branches=["b", 0], save_name="t"),
         "x": node("LoraLoader", model=["model", 0], lora_name=INK, strength_model=1),
         "b": node("CRAFTLoadLoRABranch", lora=OLD, role="content", strength=0.4)},
        "<lora:dog:0.75> <lora:ink:0.5> <lora:old one:0.3>"),
    "a sweep whose methods agree": (
        {"l": router(prompt="<c>a cat</c> in ink", methods="craft  # all\n\nk_lora: gamma = 1")
         | {"class_type": "CRAFTMethodSweep"}},
        "<lora:dog:0.75>"),
    "one that does not act on the model": (
        {"l": node("ModelSamplingSD3", model=["model", 0], shift=5),
         "x": node("LoraLoader", model=["model", 0], lora_name=DOG, strength_model=1)}, ""),
    "a list that the node refuses": (
        {"l": router(extra_branches=["list", 0]), "list": node("CRAFTLoRAList", loras="[7, {")},
        "<lora:dog:0.75> <lora:ink:0.5>"),
}  # fmt: skip


@pytest.mark.parametrize("case", LORAS)
@pytest.mark.parametrize("is_advanced", [False, True])
def test_the_loras_that_act_are_named_behind_the_prompt(case, is_advanced):
    nodes, tags = LORAS[case]
    if is_advanced:
        prompt = custom(guider("CFGGuider", model=["l", 0]), **nodes)
    else:
        prompt = graph(k=ksampler(model=["l", 0]), **nodes)
    text = parameters_text(prompt)
    assert text.split("\n")[0] == f"a cat {tags}".strip()
    assert text.endswith("Model: base") and "hash" not in text


def test_a_lora_that_the_prompt_names_is_named_once():
    good = node("CLIPTextEncode", text="a cat <lora:dog:1>", clip=["model", 1])
    text = parameters_text(graph(l=router(), k=ksampler(model=["l", 0])) | {"good": good})
    assert text.startswith("a cat <lora:dog:1> <lora:ink:0.5>\n")


ONLY_FILES = {
    "a prompt that only a run knows": ({"l": router(prompt=["good", 0], method="craft")}, 2),
    "a method that only a run knows": ({"l": router(prompt="<c>a</c>", method=["good", 0])}, 1),
    "strengths that only a run knows": (
        {"l": router(content_strength=["good", 0], style_strength=["good", 0])}, 2),
    "roles that cancel each other out": ({"l": router(style_lora=DOG, style_strength=-0.75)}, 1),
    "a sweep whose methods differ": (
        {"l": router(prompt="a cat", methods="craft\ndirect") | {"class_type": "CRAFTMethodSweep"}},
        2),
    "a search": ({"l": router() | {"class_type": "CRAFTFindBest"}}, 2),
    "a file that is made": (
        {"l": node("LoraModelLoader", model=["model", 0], lora=["f", 0], strength_model=1.0),
         "f": router(style_strength=0, save_name="x") | {"class_type": "CRAFTFuseToFile"}}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", ONLY_FILES)
def test_of_what_only_a_run_knows_the_file_is_named_without_a_strength(case):
    nodes, files = ONLY_FILES[case]
    prompt = graph(k=ksampler(model=["l", 0]), **nodes)
    hashes = {file: digit * 64 for file, digit in ((DOG, "d"), (INK, "1"))}
    text = parameters_text(prompt, hashes)
    loras = loras_of(prompt, sampling_of(prompt))
    unknown = [file for file, strength in loras.items() if strength is None]
    assert len(unknown) == files
    for file in (DOG, INK):
        assert (f"<lora:{called(file)}:" in text) == (loras.get(file) is not None)
        assert (f"{called(file)}: {hashes[file][:10]}" in text) == (file in loras)


def test_the_cells_of_a_grid_have_no_one_strength():
    grid = router(seed=1, steps=4, cfg=2.0, x_axis="strength: 0.4, 1") | {
        "class_type": "CRAFTXYGrid"
    }
    prompt = graph(k=grid)
    assert loras_of(prompt, sampling_of(prompt)) == {DOG: None, INK: None}


def test_the_methods_that_go_by_markers_are_the_cores():
    assert {one.key: one.traits.markers for one in FUSION} == GOES_BY_MARKERS


@pytest.mark.parametrize("prompt", [
    "", "no markers", "<c>a</c> in <s>b</s>", "a dog <c> in ink <s>.", "<C>a</C> x", "in <S>x</S>",
    "<\u017f>long s", "a <c >dog", "a < c>dog", "<s>a</s> <<c>", "🦊 fox<c>🦊<s>", "<cc>a</cc>",
])  # fmt: skip
@pytest.mark.parametrize("method", GOES_BY_MARKERS)
def test_a_role_is_off_where_the_core_finds_no_marker(method, prompt):
    made = graph(l=router(prompt=prompt, method=method), k=ksampler(model=["l", 0]))
    branches = [Branch(DOG, "content", {}, 0.75), Branch(INK, "style", {}, 0.5)]
    asked = PlanRequest(FUSION[method], FUSION[method].knobs({}), "all", parse(prompt))
    gammas = plan([CandidateLora(one) for one in branches], asked, sdxl_layers()).gammas
    on = {b.name: b.strength for b, gamma in zip(branches, gammas, strict=True) if gamma}
    assert loras_of(made, sampling_of(made)) == on


def test_a_name_cannot_end_its_tag():
    loras = {"content_lora": 'a:1>, "x"\n.safetensors', "style_lora": "none"}
    text = parameters_text(graph(l=router(**loras), k=ksampler(model=["l", 0])))
    assert text.startswith("a cat <lora:a 1 x:0.75>\nNegative")


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (HASHES, "Model hash: 0123456789, Model: base, "
                 f'Lora hashes: "dog: {"d" * 10}, ink: {"1" * 10}"'),
        ({INK: "1" * 64}, f'Model: base, Lora hashes: "ink: {"1" * 10}"'),
        ({MODEL: "2" * 64}, "Model hash: 2222222222, Model: base"),
        ({DOG: "there", INK: f"{'a' * 64} {'b' * 64}", MODEL: "missing"}, "Model: base"),
        ({}, "Model: base"),
    ],
)  # fmt: skip
def test_hashes_are_said_where_they_are_known(known, said):
    prompt = graph(l=router(), k=ksampler(model=["l", 0]))
    assert parameters_text(prompt, known).endswith(f"Size: 64x96, {said}")


def test_the_files_that_a_text_names():
    prompt = graph(l=router(), k=ksampler(model=["l", 0]))
    assert resource_files(prompt) == ([DOG, INK], [MODEL])
    assert resource_files(graph()) == ([], [])


EVERY_NUMBER = (10**350, -(10**350), 1e999, float("nan"), "\ud800")


@pytest.mark.parametrize("value", EVERY_NUMBER, ids=lambda value: repr(value)[:8])
def test_any_number_of_a_workflow_is_written_or_left_out(value):
    lora = node("LoraLoader", model=["model", 0], lora_name=INK, strength_model=value)
    rows = json.dumps([{"lora": DOG, "strength": value}])
    listed = node("CRAFTLoRAList", model=["lora", 0], loras=rows)
    for name in ksampler()["inputs"]:
        whole = graph(lora=lora, list=listed, sampler=ksampler(model=["list", 0]))
        whole["sampler"]["inputs"][name] = value
        whole["empty"]["inputs"] |= {"width": value, "height": value}
        assert isinstance(parameters_text(whole), str)
        loras, _ = resource_files(whole)
        if name != "model":
            assert (INK in loras) == isinstance(value, str)


def test_a_workflow_of_many_samplers_without_a_seed_takes_a_moment():
    links = {"sampler": ["0", 0], "sigmas": ["0", 0], "noise": ["0", 0], "guider": ["0", 0]}
    chain = {str(at): node("A", above=[str(at + 1), 0]) for at in range(5_000)}
    begun = time.process_time()
    assert parameters_text(chain | {f"s{at}": node("S", **links) for at in range(5_000)}) == ""
    assert time.process_time() - begun < 10
