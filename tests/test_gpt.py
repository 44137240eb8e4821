"""The transformer against transformers' Qwen3, and each piece of its training and sampling against a slow, plain one."""
import contextlib, csv, itertools, json, math, random, re, warnings

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from conftest import ROOT, TINY, sentences

def small(gpt, **changes):
    """A Config of which every value is decided."""
    values = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_hidden=48, block_size=16, dropout=0.0, batch_size=4)
    return gpt.Config(**{**values, **changes})

def random_model(gpt, V=60, seed=0, **changes):
    """Nothing at zero, gains other than 1: a mistake anywhere shows."""
    torch.manual_seed(seed)
    model = gpt.GPT(small(gpt, **changes), V).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.normal_(std=0.3)
        else:
            p.uniform_(0.5, 1.5)
    return model

# -----------------------------------------------------------------------------
# the architecture

@pytest.mark.parametrize("n_head, n_kv_head", [(4, 4), (4, 2), (4, 1), (1, 1)])
def test_logits_are_qwen3s(gpt, n_head, n_kv_head):
    from transformers import Qwen3Config, Qwen3ForCausalLM
    model = random_model(gpt, n_head=n_head, n_kv_head=n_kv_head)
    c = model.config
    oracle = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=60, hidden_size=c.n_embd, intermediate_size=c.n_hidden, num_hidden_layers=c.n_layer,
        num_attention_heads=n_head, num_key_value_heads=n_kv_head, head_dim=c.n_embd // n_head, rms_norm_eps=1e-6,
        max_position_embeddings=c.block_size, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True, attention_bias=False, attention_dropout=0.0, use_sliding_window=False)).eval()
    there = {"embd.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    for n in range(c.n_layer):
        for ours, theirs in (("attn_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
            there[f"blocks.{n}.{ours}.weight"] = f"model.layers.{n}.{theirs}.weight"
        for part in "q_proj k_proj v_proj o_proj q_norm k_norm".split():
            there[f"blocks.{n}.attn.{part}.weight"] = f"model.layers.{n}.self_attn.{part}.weight"
        for part in "gate_proj up_proj down_proj".split():
            there[f"blocks.{n}.mlp.{part}.weight"] = f"model.layers.{n}.mlp.{part}.weight"
    weights = model.state_dict()
    assert set(weights) == set(there)                        # one to one: no weight is left, no bias hides
    mapped = {there[name]: weight for name, weight in weights.items()}
    missing = oracle.load_state_dict(mapped, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys
    oracle.tie_weights()
    for T in (1, 2, 7, c.block_size):
        idx = torch.randint(60, (3, T), generator=torch.Generator().manual_seed(T))
        with torch.no_grad():
            ours, theirs = model(idx), oracle(idx).logits
        assert ours.shape == (3, T, 60) and theirs.std() > 0.5
        assert torch.allclose(ours, theirs, atol=2e-4, rtol=1e-4), (ours - theirs).abs().max()

def test_no_token_sees_the_next(gpt):
    model, idx = random_model(gpt), torch.arange(16)[None]
    changed = idx.clone()
    changed[0, 9] = 50
    apart = (model(idx) - model(changed)).abs().sum(-1)[0]
    assert apart[:9].max() == 0 and apart[9:].min() > 1e-3

def test_loss_is_the_sum_of_the_targets_nats(gpt):
    model, idx = random_model(gpt), torch.randint(60, (3, 16))
    targets = torch.randint(60, (3, 16))
    targets[1, 4:] = -1
    logits = model(idx).double()
    nats = sum(-logits[b, t].log_softmax(0)[targets[b, t]].item() for b in range(3) for t in range(16) if targets[b, t] >= 0)
    assert model(idx, targets).item() == pytest.approx(nats, rel=1e-5)

def test_a_new_model_knows_nothing(gpt):
    torch.manual_seed(0)
    model = gpt.GPT(small(gpt), 60)
    loss = model(torch.randint(60, (8, 16)), torch.randint(60, (8, 16))).item() / 128
    assert loss == pytest.approx(math.log(60), abs=0.2)

def test_dropout_only_in_training(gpt):
    model, idx = random_model(gpt, dropout=0.5), torch.arange(16)[None]
    assert torch.equal(model(idx), model(idx))
    assert not torch.equal(model.train()(idx), model(idx))

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norm_and_its_derivative_are_those_of_torch_in_fp32(gpt, dtype):
    norm, x, dy = gpt.Norm(32), torch.randn(4, 32).to(dtype).requires_grad_(), torch.randn(4, 32)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    exact, gain = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    expected = torch.nn.functional.rms_norm(exact, (32,), gain, eps=1e-6)
    expected.backward(dy.double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            y = norm(x)
        y.backward(dy)
    assert y.dtype is torch.float32 and x.grad.dtype is dtype
    assert torch.allclose(y.double(), expected, rtol=1e-5)
    assert torch.allclose(norm.weight.grad.double(), gain.grad, atol=1e-5)
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-5 if dtype is torch.float32 else 2e-2)

def test_a_step_in_bf16_gives_no_warning(gpt):
    model = random_model(gpt).train().requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randint(60, (2, 16)), torch.randint(60, (2, 16)))
        loss.backward()
    assert loss.dtype is torch.float32 and all(p.grad.isfinite().all() for p in model.parameters())

# -----------------------------------------------------------------------------
# the cache

def windows(ids, prompt, T):
    """Which ids the prediction after each of ids[prompt - 1:] is made from: up to T; when they are full, the last T // 2."""
    start = 0
    for end in range(prompt, len(ids) + 1):
        if end - start > T:
            start = end - max(1, T // 2)
        yield ids[start:end]

@pytest.mark.parametrize("T, prompt, n_kv_head", [(16, 1, 2), (16, 16, 4), (16, 17, 1), (16, 40, 2), (15, 3, 4), (2, 1, 4), (1, 1, 4), (1, 5, 2)])
def test_cached_logits_are_those_of_the_window(gpt, T, prompt, n_kv_head):
    model = random_model(gpt, block_size=T, n_kv_head=n_kv_head)
    rng = random.Random(T)
    ids = [rng.randrange(60) for _ in range(prompt + 3 * T + 5)]
    read, lengths = gpt.make_reader(model), []
    fed = [ids[:prompt]] + [[i] for i in ids[prompt:]]
    seen = []
    read([5, 6, 7], [])                                      # another text, of which nothing stays
    for new, window in zip(fed, windows(ids, prompt, T), strict=True):
        cached = read(new, seen)
        assert cached.shape == (60,)
        assert torch.allclose(cached, model(torch.tensor([window]))[0, -1], atol=1e-4, rtol=1e-4)
        lengths.append(len(window))
    assert max(lengths) <= T and (T < 2 or T in lengths and lengths.count(T // 2) >= 2)

def test_readers_do_not_share_what_they_have_read(gpt):
    model = random_model(gpt)
    one, other = gpt.make_reader(model), gpt.make_reader(model)
    one([1, 2, 3], seen := []), other([9], [])
    assert torch.allclose(one([4], seen), model(torch.tensor([[1, 2, 3, 4]]))[0, -1], atol=1e-4)

# -----------------------------------------------------------------------------
# evaluation

@pytest.mark.parametrize("n, batch_size", [(1, 4), (15, 4), (16, 4), (17, 1), (100, 3), (16 * 9, 4)])
def test_evaluate_is_a_plain_slow_loop(gpt, n, batch_size):
    """Windows that do not overlap; each token after the first is predicted once, from its own window only."""
    model = random_model(gpt)
    ids = torch.randint(60, (n + 1,), generator=torch.Generator().manual_seed(n), dtype=torch.int32)
    nats = 0.0
    for t in range(n):
        begin = t // 16 * 16
        logits = model(ids[begin:t + 1].long()[None])[0, -1].double()
        nats -= logits.log_softmax(0)[ids[t + 1].long()].item()
    state = torch.random.get_rng_state()
    assert gpt.evaluate(model, ids, batch_size) == pytest.approx(nats / n, rel=1e-5)
    assert torch.equal(state, torch.random.get_rng_state())

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_evaluation_on_a_gpu_is_in_fp32(gpt):
    seen, real, ids = [], F.scaled_dot_product_attention, torch.randint(60, (100,))
    model = random_model(gpt)
    def spy(q, k, v, **kwargs):
        seen.append((q.dtype, real(q, k, v, **kwargs).dtype))
        return real(q, k, v, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        there = gpt.evaluate(model.cuda(), ids.cuda(), 4)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert there == pytest.approx(gpt.evaluate(model.cpu(), ids, 4), rel=1e-5)

def test_pieces_are_for_evaluation_too(shop):
    """Less memory by --grad-accum: also where the model is evaluated, and where --compile tries it."""
    patch = ("def evaluate(model, ids, batch_size):\n    print('evaluated by', batch_size)\n    return 1.0\n"
             "torch.compile = lambda model: lambda x, y: print('tried', len(x)) or model(x, y)")
    said = shop.ok("gpt.py", *TINY, "--max-steps", 2, "--batch-size", 10, "--grad-accum", 4, "--compile", patch=patch)
    assert "evaluated by 3\n" in said and "evaluated by 10" not in said and "tried 3\n" in said

def test_another_device_gets_all_it_needs_and_no_float64(gpt, monkeypatch):
    """Meta tensors are on a device of their own, and only lack numbers. Macs' mps has no float64 (and is not here)."""
    class Single(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            assert not any(x.is_meta and x.dtype == torch.float64 for x in tree_leaves(out) if torch.is_tensor(x)), func
            return out
    monkeypatch.setattr(torch.Tensor, "item", lambda x: 1.0)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: True)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    meta = torch.device("meta")
    learner = gpt.Learner(gpt.settle(small(gpt, dropout=0.1), {}, meta), 60, meta)
    x = torch.zeros(4, 16, dtype=torch.long, device=meta)
    with Single():
        learner.step(0, x, x)
        gpt.evaluate(learner.average, torch.zeros(100, dtype=torch.int32), 4)
        logits = gpt.make_reader(learner.average)([1, 2, 3], [])
    assert logits.is_meta and all(p.is_meta for p in learner.model.parameters())

# -----------------------------------------------------------------------------
# batches

def starts_of(batches, steps, T, n):
    """-> where each row begins: ids are their own positions."""
    rows = []
    for step in steps:
        x, y = batches[step]
        assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (n, T)
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert torch.equal(x + 1, y)                         # the token after it
        rows += x[:, 0].tolist()
    return rows

@pytest.mark.parametrize("length, T, B", [(1000, 16, 4), (997, 10, 7), (17, 16, 3), (18, 16, 3), (32, 16, 2), (33, 16, 2), (48, 16, 5), (64, 1, 8)])
def test_each_epoch_covers_its_windows_once(gpt, length, T, B):
    batches = gpt.Batches(torch.arange(length, dtype=torch.int32), T, B, seed=5)
    n = batches.n_windows
    rows = starts_of(batches, range(3 * n // B + 3), T, B)
    epochs = [rows[e * n:(e + 1) * n] for e in range(3)]
    firsts = set()
    for epoch in epochs:
        assert sorted(epoch) == list(range(min(epoch), min(epoch) + n * T, T))   # side by side, none twice
        assert min(epoch) >= 0 and max(epoch) + T < length
        firsts.add(min(epoch))
    assert n * T >= length - 2 * T                           # all of the text but less than two windows
    if n > 8:
        assert all(epoch != sorted(epoch) for epoch in epochs) and epochs[0] != epochs[1] and len(firsts) > (T > 1)

def test_batches_depend_on_seed_and_step_alone(gpt):
    ids = torch.randint(250, (5000,), dtype=torch.int32)
    def make(seed=3):
        return gpt.Batches(ids, 16, 4, seed)
    one, other = make(), make()
    steps = [7, 300, 0, 7, 150, 151, 299]
    torch.manual_seed(1)
    first = {step: one[step] for step in steps}
    torch.manual_seed(2)
    torch.rand(5)
    for step in reversed(steps):
        assert all(map(torch.equal, first[step], other[step]))
    assert not torch.equal(first[7][0], make(4)[7][0]) and not torch.equal(first[7][0], first[0][0])

def test_loading_batches_leaves_the_global_random_state_alone(gpt):
    """As train does it: a DataLoader without a generator of its own would draw from the global one."""
    batches = gpt.Batches(torch.randint(250, (2000,), dtype=torch.int32), 16, 4, 3)
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    loader = DataLoader(batches, batch_size=None, sampler=range(5, 40), generator=torch.Generator())
    for step, batch in zip(range(5, 40), loader, strict=True):
        assert all(map(torch.equal, batch, batches[step]))
    assert torch.equal(before, torch.random.get_rng_state())

@pytest.mark.parametrize("script", ["bigram_nn.py", "gpt.py"])
def test_the_loader_has_a_generator_of_its_own(script):
    source = (ROOT / script).read_text(encoding="utf-8")
    call = re.search(r"DataLoader\(batches,(?:[^()]|\([^()]*\))*\)", source).group()
    assert "generator=torch.Generator()" in call and "batch_size=None" in call

# -----------------------------------------------------------------------------
# sampling

def choices(gpt, logits, n=400, **flags):
    config, generator = gpt.Config(**flags), torch.Generator().manual_seed(1)
    return [gpt.pick(logits.clone(), config, generator) for _ in range(n)]

def test_pick(gpt):
    logits = torch.tensor([0.0, 3.0, 2.0, -1.0, 2.5])
    assert set(choices(gpt, logits, temperature=0.0)) == {1}
    assert set(choices(gpt, logits, temperature=0.0, top_k=3)) == {1}
    assert set(choices(gpt, logits, top_k=1)) == {1}
    assert set(choices(gpt, logits, top_k=2)) == {1, 4}
    assert set(choices(gpt, logits, top_k=3, temperature=5.0)) == {1, 2, 4}
    for k in (0, 5, 6, 10 ** 6):
        assert set(choices(gpt, logits, n=2000, top_k=k)) == {0, 1, 2, 3, 4}
        assert choices(gpt, logits, top_k=k) == choices(gpt, logits)
    kept = logits.clone()
    gpt.pick(kept, gpt.Config(top_k=2), torch.Generator())
    assert torch.equal(kept, logits)                         # what it is given stays as it is

@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_pick_draws_as_often_as_the_softmax_says(gpt, temperature):
    logits = torch.tensor([0.0, 3.0, 2.0, -1.0, 2.5])
    drawn = torch.bincount(torch.tensor(choices(gpt, logits, n=4000, temperature=temperature)), minlength=5) / 4000
    assert torch.allclose(drawn, (logits / temperature).softmax(0), atol=0.03)

def fixed(ids, V=257):
    """A reader that predicts these ids for certain, one after the other, and notes what it is fed."""
    turns, fed = iter(ids), []
    def read(new, seen):
        fed.append(list(new))
        return F.one_hot(torch.tensor(next(turns)), V) * 1e4
    return read, fed

def test_generate_feeds_each_token_once(gpt):
    tokenizer = gpt.Tokenizer([])
    read, fed = fixed(b"Hello")
    text = gpt.generate(read, tokenizer, gpt.Config(max_new_tokens=5), [1, 2, 3], torch.Generator())
    assert "".join(text) == "Hello" and fed == [[1, 2, 3], [72], [101], [108], [108]]

def test_never_half_a_character(gpt):
    tokenizer, text = gpt.Tokenizer([]), "a€😀👩‍👩‍👧é!"
    data = text.encode()
    for n in range(len(data) + 1):                           # whatever the number of tokens
        parts = list(gpt.generate(fixed(data)[0], tokenizer, gpt.Config(max_new_tokens=n), [1], torch.Generator()))
        whole = data[:n].decode("utf-8", "ignore")
        assert "".join(parts) == whole and "\ufffd" not in whole and all(len(part) <= 1 for part in parts)
    broken = b"a\xff\xe2\x82b\xf0\x9f"
    text = "".join(gpt.generate(fixed(broken)[0], tokenizer, gpt.Config(max_new_tokens=7), [1], torch.Generator()))
    assert text == "a\ufffd\ufffdb"                          # what never becomes a character is shown as U+FFFD

def test_generation_stops_at_endoftext(gpt):
    tokenizer = gpt.Tokenizer([])
    read, fed = fixed([97, 98, tokenizer.eot, 99])
    assert "".join(gpt.generate(read, tokenizer, gpt.Config(), [1], torch.Generator())) == "ab" and len(fed) == 3
    read, fed = fixed([])
    assert list(gpt.generate(read, tokenizer, gpt.Config(max_new_tokens=0), [1], torch.Generator())) == [] == fed

@pytest.fixture(scope="module")
def emoji(server, tmp_path_factory):
    """A model of bytes, trained on text of which most characters have several."""
    from conftest import Workshop
    shop = Workshop(server, tmp_path_factory.mktemp("emoji") / "shop")
    rng = random.Random(3)
    shop.write("input.txt", "".join(rng.choice(["😀", "é€", " 👍🏽", "ü", "😀\n"]) for _ in range(2000)))
    shop.ok("gpt.py", *TINY, "--max-steps", 150, "--vector-lr", 0.03, "--average", 0.9, "--eval-every", 150)
    return shop

def test_sampling_from_the_shell(emoji):
    def speak(*flags, **kwargs):
        return emoji.ok("gpt.py", "--sample", "--max-new-tokens", 60, *flags, **kwargs)
    assert speak() == speak() == speak("--seed", 1337) != speak("--seed", 2)
    assert speak("--temperature", 0) == speak("--temperature", 0, "--seed", 2) == speak("--top-k", 1, "--seed", 3)
    assert speak("--top-k", 0) == speak() == speak("--top-k", 257) == speak("--top-k", 10 ** 9) != speak("--top-k", 2)
    text = speak("--temperature", 0)
    assert text.endswith("\n") and not text.isascii() and "\ufffd" not in text
    assert speak("--prompt", "") == speak()                  # as after a new line, which is not printed
    assert speak("--prompt", "é€ 👍").startswith("é€ 👍")
    assert speak("--prompt", "-", stdin="é€ 👍") == speak("--prompt", "é€ 👍")
    assert speak("--prompt", "-", stdin="") == speak()
    long = "😀 é€ 👍🏽 ab\n" * 30
    assert speak("--prompt", long).startswith(long)
    assert speak("--prompt", long[-200:], "--temperature", 0)[200:] == speak("--prompt", long, "--temperature", 0)[len(long):]
    assert speak("--prompt", "-", stdin=b"\xff\xfeab").startswith("\ufffd\ufffdab")
    assert speak("--prompt", "x", "--max-new-tokens", 0) == "x\n"
    assert len(speak("--num-samples", 3, "--prompt", "A").split("-" * 20 + "\n")) == 3
    for flags in (["--prompt", "<|endoftext|>"], ["--prompt", "é"]):
        assert speak(*flags, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})

def test_sampling_stops_at_endoftext_from_the_shell(shop):
    """A model of a hundred documents that are all the same learns where they end."""
    for n in range(100):
        shop.write(f"texts/{n:03}", "abcdefgh")
    shop.ok("gpt.py", *TINY, "--input", "texts", "--max-steps", 80, "--vector-lr", 0.03, "--average", 0.9, "--eval-every", 80)
    assert shop.ok("gpt.py", "--sample", "--temperature", 0, "--prompt", "a") == "abcdefgh\n"

def test_samples_appear_as_they_form(emoji):
    """A reader of the pipe sees text long before the last token."""
    running = emoji.start("gpt.py", "--sample", "--max-new-tokens", 10 ** 6)
    running.until("é", 30)
    running.kill()
    running.wait()

# -----------------------------------------------------------------------------
# precision

def test_dtype_by_capability(gpt, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    cuda = torch.device("cuda")
    for capability, dtype in {(6, 1): "fp16", (7, 0): "fp16", (7, 5): "fp16", (8, 0): "bf16", (8, 9): "bf16", (9, 0): "bf16", (10, 0): "bf16"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)
        assert gpt.pick_dtype("auto", cuda) == dtype
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True}, raising=False)
    assert gpt.pick_dtype("auto", torch.device("mps")) == "fp32"
    for can, dtype in (({}, "fp32"), ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
                       ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True, "avx512_bf16": False}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
        assert gpt.pick_dtype("auto", torch.device("cpu")) == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert gpt.pick_dtype("auto", torch.device("cpu")) == "fp32"
    for name in ("fp32", "bf16"):
        assert gpt.pick_dtype(name, torch.device("cpu")) == name
    assert gpt.pick_dtype("fp16", cuda) == "fp16"
    for name, device in (("fp16", "cpu"), ("fp16", "mps"), ("float32", "cpu"), ("", "cpu")):
        with pytest.raises(gpt.UserError):
            gpt.pick_dtype(name, torch.device(device))

FP16 = """
def pick_dtype(name, device): return 'fp16'
real_scaler = torch.amp.GradScaler
torch.amp.GradScaler = lambda *args, **kwargs: real_scaler(*args, **{**kwargs, 'init_scale': 2.0 ** SCALE})
"""

def start_and_end(shop, out, steps, scale):
    """-> raw weights and average before and after these steps, in fp16 with a scaler that starts at 2 ** scale, and its rows"""
    patch = FP16.replace("SCALE", str(scale)) + "first = []\nreal_save = save\n" \
        "def save(path, saved):\n    if path.endswith('state.pt') and saved['step'] == 0: real_save('first.pt', saved)\n    real_save(path, saved)\n"
    shop.ok("gpt.py", *TINY, "--max-steps", steps, "--warmup", 0, "--out-dir", out, patch=patch)
    lines = [*csv.reader((shop.path / out / "gpt/metrics.csv").read_text().splitlines())]
    return shop.load("first.pt"), shop.load(f"{out}/gpt/state.pt"), [dict(zip(lines[0], line)) for line in lines[1:]]

def test_an_overflow_skips_both_optimisers(shop):
    """GradScaler's logic on a CPU: a scale at which fp16 gradients overflow, then one at which they do not."""
    before, after, rows = start_and_end(shop, "over", 1, 60)
    assert after["step"] == 1 and not math.isfinite(float(rows[0]["grad_norm"]))
    for name in before["weights"]:                           # neither Muon's nor AdamW's have moved
        assert torch.equal(before["weights"][name], after["weights"][name]), name
        assert torch.equal(before["average"][name], after["average"][name]), name
    assert not after["muon"]["state"] and not after["adamw"]["state"]
    assert float(rows[0]["scale"]) == 2.0 ** 59 == after["scaler"]["scale"]

    before, after, rows = start_and_end(shop, "fine", 1, 8)
    assert float(rows[0]["scale"]) == 2.0 ** 8 and math.isfinite(float(rows[0]["grad_norm"]))
    moved = {name for name in before["weights"] if not torch.equal(before["weights"][name], after["weights"][name])}
    assert "embd.weight" in moved and any("o_proj" in name for name in moved)

    _, _, rows = start_and_end(shop, "goes_on", 9, 22)       # overflows, halves, and then learns
    finite = [math.isfinite(float(row["grad_norm"])) for row in rows[:-1]]
    assert finite == sorted(finite) and finite[-1]
    assert float(rows[8 - 1]["scale"]) == 2.0 ** (22 - finite.count(False))

def test_fp16_learns_what_fp32_does(shop):
    _, _, rows = start_and_end(shop, "fp16", 12, 8)
    shop.ok("gpt.py", *TINY, "--max-steps", 12, "--warmup", 0, "--out-dir", "fp32", "--dtype", "fp32")
    other = metrics(shop, "fp32")
    for a, b in zip(rows[:-1], other[:-1]):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=0.03)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=0.1)

# -----------------------------------------------------------------------------
# training

def metrics(shop, out="out"):
    lines = [*csv.reader((shop.path / out / "gpt/metrics.csv").read_text().splitlines())]
    assert lines[0] == "step loss matrix_lr vector_lr grad_norm scale ms tokens_per_second seconds val_loss val_bpb sample".split()
    assert all(len(line) == len(lines[0]) for line in lines)
    return [dict(zip(lines[0], line)) for line in lines[1:]]

def test_learning_rate(gpt):
    c = small(gpt, max_steps=100, warmup=9, decay=0.4)
    rate = [gpt.lr_at(step, c) for step in range(101)]
    assert rate[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert rate[10:61] == [1.0] * 51 and gpt.decay_start(c) == 60
    assert rate[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 101)]) and min(rate[:100]) > 0
    longer = small(gpt, max_steps=200, warmup=9, decay=0.4)
    assert rate[:61] == [gpt.lr_at(step, longer) for step in range(61)]     # so a run can be prolonged
    for decay in (0.0, 1.0):
        c = small(gpt, max_steps=10, warmup=0, decay=decay)
        rate = [gpt.lr_at(step, c) for step in range(10)]
        assert rate == pytest.approx([1.0] * 10 if decay == 0 else [(10 - step) / 10 for step in range(10)])
        assert gpt.decay_start(c) == (10 if decay == 0 else 0)

def test_a_run_and_its_files(shop):
    out = shop.ok("gpt.py", *TINY, "--max-steps", 25, "--warmup", 4, "--decay", 0.4, "--matrix-lr", 0.03)
    rows = metrics(shop)
    assert [int(row["step"]) for row in rows] == list(range(26))
    assert [int(row["step"]) for row in rows if row["val_loss"]] == [0, 10, 20, 25]
    assert all(row["loss"] for row in rows[:-1]) and not rows[-1]["loss"]
    rates = [float(row["matrix_lr"]) for row in rows[:-1]]
    assert rates == pytest.approx([0.03 * min((n + 1) / 5, 1, (25 - n) / 10) for n in range(25)])
    seconds = [float(row["seconds"]) for row in rows[:-1]]
    assert seconds == pytest.approx(list(itertools.accumulate(float(row["ms"]) / 1000 for row in rows[:-1])))
    assert float(rows[0]["loss"]) == pytest.approx(math.log(257), abs=0.1) and float(rows[24]["loss"]) < 5
    best = min(float(row["val_loss"]) for row in rows if row["val_loss"])
    result = json.loads((shop.path / "out/gpt/result.json").read_text())
    state, model = shop.load("out/gpt/state.pt"), shop.load("out/gpt/model.pt")
    assert result["val_loss"] == best == model["val_loss"] and result["model"] == "GPT"
    assert result["val_bpb"] == pytest.approx(best * int(re.search(r"([\d,]+) for validation", out).group(1)) / math.log(2) /
                                              len((shop.path / "input.txt").read_bytes()[int(0.9 * 6000):]), rel=2e-2)
    assert result["seconds"] == pytest.approx(seconds[-1])
    assert result["parameters"] == sum(w.numel() for w in model["weights"].values())
    assert f"{result['parameters']:,} parameters" in out
    assert model["command"].startswith("gpt.py --tokenizer bytes")
    assert set(model) >= {"config", "tokenizer", "text", "weights"} and state["step"] == 25
    assert (model["tokenizer"], model["text"]) == (result["tokenizer"], result["text"]) == (state["tokenizer"], state["text"])
    assert shop.load("out/gpt/stable.pt")["step"] == 15
    assert out.count("| validation ") == 4

def test_evaluation_and_samples_do_not_change_training(shop):
    """Nor do saves: however often it looks, it learns the same."""
    flags = [*TINY, "--max-steps", 12, "--dropout", 0.3, "--dtype", "fp32"]
    for every in (1, 5, 12):
        shop.ok("gpt.py", *flags, "--eval-every", every, "--out-dir", f"every{every}", "--temperature", every)
    states = [shop.load(f"every{every}/gpt/state.pt") for every in (1, 5, 12)]
    for name in states[0]["weights"]:
        assert torch.equal(states[0]["weights"][name], states[1]["weights"][name])
        assert torch.equal(states[0]["average"][name], states[2]["average"][name])

@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
def test_gradient_accumulation_takes_the_same_steps(shop, pieces):
    flags = [*TINY, "--max-steps", 12, "--dtype", "fp32"]
    shop.ok("gpt.py", *flags, "--out-dir", "one")
    shop.ok("gpt.py", *flags, "--grad-accum", pieces, "--out-dir", "more")
    for a, b in zip(metrics(shop, "one")[:-1], metrics(shop, "more")[:-1]):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-3)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-2)

def test_seed_changes_the_run(shop):
    for seed in (1, 2):
        shop.ok("gpt.py", *TINY, "--max-steps", 3, "--seed", seed, "--out-dir", f"s{seed}")
    assert [row["loss"] for row in metrics(shop, "s1")] != [row["loss"] for row in metrics(shop, "s2")]

def test_muon_is_torchs(gpt):
    """Ours takes matrices of one shape together; each step is that of torch.optim.Muon, but for bf16's rounding."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has none: it came with 2.9")
    torch.manual_seed(3)
    shapes = [(16, 16), (16, 16), (48, 16), (16, 48), (48, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    one, other = gpt.Muon(ours, 0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    one.param_groups[0]["lr"] = 0.02
    for step in range(8):
        before = [p.detach().clone() for p in theirs]
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        one.step(), other.step()
        for a, b, start in zip(ours, theirs, before):
            assert (a - b).norm() < 0.1 * (b - start).norm(), (a.shape, step)

def test_the_average_follows_the_weights(shop, gpt):
    """Its recurrence, by hand, from the weights of every step."""
    patch = """
real_lerp, seen = torch._foreach_lerp_, []
def lerp(average, weights, share):
    real_lerp(average, weights, share)
    seen.append((weights[0].clone(), average[0].clone()))
    torch.save(seen, 'seen.pt')
torch._foreach_lerp_ = lerp
"""
    shop.ok("gpt.py", *TINY, "--max-steps", 30, "--average", 0.6, patch=patch)
    average = None
    for step, (weights, shown) in enumerate(shop.load("seen.pt")):
        keep = min(0.6, step / (step + 10))
        average = weights if average is None else keep * average + (1 - keep) * weights
        assert torch.allclose(average, shown, atol=1e-6)

def test_warning_after_three_rises(shop):
    values = "[4, 4, 4, 4, 4.1, 4.2, 4.0, 4.1, 4.2, 4.3, 4.4, 3, 2]"
    patch = f"values = iter({values})\ndef evaluate(model, ids, batch_size): return next(values) if batch_size > 1 else 1.0\n"
    out = shop.ok("gpt.py", *TINY, "--eval-every", 1, "--max-steps", 12, patch=patch)
    lines = [line for line in out.splitlines() if "| validation" in line or "warning" in line]
    warned = [n for n, line in enumerate(lines) if "warning" in line]
    assert [lines[n - 1].split()[1] for n in warned] == ["9", "10"] and "risen three times" in lines[warned[0]]
    assert shop.load("out/gpt/model.pt")["step"] == 12

def test_model_is_the_best_on_validation(shop):
    patch = "values = iter([5, 4, 3, 3.5, 3.4, 3.3])\ndef evaluate(model, ids, batch_size): return next(values) if batch_size > 1 else 1.0\n"
    shop.ok("gpt.py", *TINY, "--eval-every", 2, "--max-steps", 10, patch=patch)
    model = shop.load("out/gpt/model.pt")
    assert (model["step"], model["val_loss"]) == (4, 3) and json.loads((shop.path / "out/gpt/result.json").read_text())["val_loss"] == 3

NAN = """
real_forward = GPT.forward
def forward(self, idx, targets=None, *args, **kwargs):
    out = real_forward(self, idx, targets, *args, **kwargs)
    learning = self.training and torch.is_grad_enabled()
    forward.calls += learning
    return out * math.nan if learning and WHEN(forward.calls) else out
forward.calls = 0
GPT.forward = forward
"""

def finite(saved):
    """Whether all numbers of a checkpoint are."""
    found = [w for part in ("weights", "average") for w in saved.get(part, {}).values()]
    found += [value for name in ("muon", "adamw") if name in saved for state in saved[name]["state"].values() for value in state.values()]
    return all(value.isfinite().all() for value in found if torch.is_tensor(value))

def test_ten_losses_that_are_not_finite_stop_the_run(shop):
    patch = NAN.replace("WHEN", "(lambda n: n > 14)")
    result = shop.run("gpt.py", *TINY, "--max-steps", 60, patch=patch)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "finite" in result.stderr, result.stderr
    assert shop.load("out/gpt/state.pt")["step"] < 24 and finite(shop.load("out/gpt/state.pt")) and finite(shop.load("out/gpt/model.pt"))
    assert len(metrics(shop)) <= 25
    saved = shop.load("out/gpt/state.pt")["step"]
    shop.ok("gpt.py", "--max-steps", 60)                     # and it goes on from there
    assert [int(row["step"]) for row in metrics(shop)] == list(range(61))
    assert all(math.isfinite(float(row["loss"])) for row in metrics(shop)[saved:-1])

def test_a_loss_that_is_not_finite_once_changes_nothing(shop):
    shop.ok("gpt.py", *TINY, "--max-steps", 20, patch=NAN.replace("WHEN", "(lambda n: n in (5, 6, 7, 8, 9, 10, 12, 20))"))
    rows = metrics(shop)
    assert [n for n, row in enumerate(rows[:-1]) if not math.isfinite(float(row["loss"]))] == [4, 5, 6, 7, 8, 9, 11, 19]
    assert finite(shop.load("out/gpt/state.pt")) and float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])

@pytest.mark.parametrize("flags", [["--matrix-lr", 1e6], ["--vector-lr", 1e6], ["--matrix-lr", 1e6, "--vector-lr", 1e6], ["--matrix-lr", 50]])
def test_a_run_that_diverges(shop, flags):
    """Whether it is at an evaluation or not: one line at the most, and what is saved are numbers."""
    result = shop.run("gpt.py", *TINY, "--max-steps", 40, "--warmup", 0, "--eval-every", 4, *flags)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode in (0, 1) and result.stderr.count("\n") == result.returncode
    for name in ("state.pt", "model.pt"):
        assert finite(shop.load(f"out/gpt/{name}"))

def test_compile_that_fails(shop):
    out = shop.ok("gpt.py", *TINY, "--max-steps", 3, "--compile", patch="def broken(model): raise RuntimeError('no compiler')\ntorch.compile = broken")
    assert sum("--compile" in line for line in out.splitlines()) == 1
    shop.ok("gpt.py", *TINY, "--max-steps", 3, "--out-dir", "eager")
    assert [row["loss"] for row in metrics(shop)] == [row["loss"] for row in metrics(shop, "eager")]

def test_compile_that_fails_late_leaves_no_gradients(shop):
    late = """
def compile(model):
    def forward(x, y):
        model(x, y).backward()
        raise RuntimeError('too late')
    return forward
torch.compile = compile
"""
    shop.ok("gpt.py", *TINY, "--max-steps", 3, "--compile", patch=late)
    shop.ok("gpt.py", *TINY, "--max-steps", 3, "--out-dir", "eager")
    assert [row["loss"] for row in metrics(shop)] == [row["loss"] for row in metrics(shop, "eager")]

def test_compiled_weights_have_the_same_names(shop):
    """A compiled module that wraps ours, as torch's does: no `_orig_mod.` in a checkpoint."""
    shop.ok("gpt.py", *TINY, "--max-steps", 3, "--compile", patch="real = torch.compile\n"
            "torch.compile = lambda model: real(model, backend='eager')", timeout=120)
    names = {*shop.load("out/gpt/state.pt")["weights"], *shop.load("out/gpt/model.pt")["weights"]}
    assert names and not any("_orig_mod" in name for name in names)

FULL = """
real = GPT.forward
def forward(self, *args, **kwargs):
    if torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    return real(self, *args, **kwargs)
GPT.forward = forward
"""

def test_out_of_memory_says_which_flag_helps(shop):
    error = shop.fails("gpt.py", *TINY, "--max-steps", 3, "--eval-every", 3, patch=FULL)
    assert "memory" in error and "--grad-accum 2" in error

@pytest.mark.parametrize("device, expected", [("cpu", 0), ("mps", 0), ("cuda", 1)])
def test_presets(gpt, device, expected):
    """Every value that the device decides is one of the two in the file, and any flag overrides it."""
    values = {f.name: f.metadata["preset"] for f in gpt.fields(gpt.Config) if "preset" in f.metadata}
    assert {"n_layer", "n_embd", "block_size", "max_steps", "batch_size"} <= set(values)
    settled = gpt.settle(gpt.Config(), {}, torch.device(device))
    for name, preset in values.items():
        assert getattr(settled, name) == preset[expected], name
    chosen = gpt.settle(gpt.Config(n_layer=3, dropout=0.25, max_steps=7), {}, torch.device(device))
    assert (chosen.n_layer, chosen.dropout, chosen.max_steps) == (3, 0.25, 7)
    size = sum(p.numel() for p in gpt.GPT(settled, 1024).parameters())
    assert (500_000 < size < 2_000_000) if expected == 0 else (8_000_000 < size < 14_000_000)

@pytest.mark.parametrize("length", ["one context and a token", "two contexts"])
def test_shortest_texts(shop, length):
    """17 tokens are enough to train on with a context of 16."""
    n = 17 if length.startswith("one") else 32
    shop.write("input.txt", sentences(2, 200)[:math.ceil(n / 0.9)])
    out = shop.ok("gpt.py", *TINY, "--max-steps", 3)
    assert f"{n} tokens to train on" in out
