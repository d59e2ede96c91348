"""OpenRouter: the list of models, and bills by the prices in it."""

from __future__ import annotations

import pytest

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import VideoRequest
from emulator.vendor import Vendor, Vendors

#: Resolution that each price of the list is for.
RESOLUTIONS = {"video_tokens": "720p", "video_tokens_1080p": "1080p", "video_tokens_4k": "4k"}


@pytest.fixture
def openrouter(vendor: Vendors) -> Vendor:
    return vendor("openrouter")


def test_the_published_table_has_the_prices_of_the_list(openrouter: Vendor) -> None:
    models = openrouter.get("/videos/models").json()["data"]
    assert any(RESOLUTIONS.keys() & model["pricing_skus"].keys() for model in models)
    for model in models:
        for sku, resolution in RESOLUTIONS.items():
            if sku not in model["pricing_skus"]:
                continue
            request = VideoRequest(prompt="p", model=model["id"], generate_audio=True, resolution=resolution)
            rule = get_api("openrouter").published.prices.usd_rule(request)
            assert rule is not None
            assert rule.price == pytest.approx(float(model["pricing_skus"][sku]) * 1e6), (model["id"], sku)


def test_the_bill_is_the_estimate(openrouter: Vendor) -> None:
    for model, resolution, audio in [
        ("2.5", "480p", True),
        ("2.0", "1080p", True),
        ("2.0", "4k", True),
        ("2.0-fast", "720p", True),
        ("2.0-mini", "480p", True),
        ("1-5-pro", "720p", True),
        ("1-5-pro", "1080p", False),
    ]:
        request = VideoRequest(
            prompt="a kite",
            model=f"bytedance/seedance-{model}",
            resolution=resolution,
            aspect_ratio="16:9",
            duration=5,
            generate_audio=audio,
        )
        body = get_api("openrouter").body(request)
        job = openrouter.status(openrouter.id_of(openrouter.post("/videos", body))).json()
        assert get_api("openrouter").price(request).cost_usd == pytest.approx(job["usage"]["cost"], abs=2e-6)
