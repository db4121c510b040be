"""Encoders and decoders of sequence-to-sequence models that are used as causal language models."""

from shapcut_adapters.transformers.families.family import Condition, Family

_CAUSAL = Condition(
    "is_decoder",
    value=True,
    otherwise="tokens see those after them, so predicting the next one tells nothing of a layer's worth",
)

_DECODER = {"is_decoder": True, "pad_token_id": 1}
_SEQUENCE_TO_SEQUENCE = {
    "encoder_layers": 6,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "pad_token_id": 1,
    "forced_eos_token_id": None,
}


def _encoder(model_type: str, model_class: str, base: str, **tiny: object) -> Family:
    return Family(
        model_type,
        model_class,
        f"{base}.encoder.layer",
        removal_needs=(_CAUSAL,),
        tiny={**_DECODER, **tiny},
    )


def _decoder(model_type: str, model_class: str, **tiny: object) -> Family:
    return Family(
        model_type,
        model_class,
        "model.decoder.layers",
        "decoder_layers",
        independent_fields=("encoder_layers",),
        tiny={**_SEQUENCE_TO_SEQUENCE, **tiny},
    )


ENCODER_FAMILIES = (
    _encoder("bert", "BertLMHeadModel", "bert"),
    _encoder("bert-generation", "BertGenerationDecoder", "bert"),
    _encoder("big_bird", "BigBirdForCausalLM", "bert", attention_type="original_full"),
    _encoder("camembert", "CamembertForCausalLM", "roberta"),
    _encoder("data2vec-text", "Data2VecTextForCausalLM", "data2vec_text"),
    _encoder("electra", "ElectraForCausalLM", "electra", embedding_size=16),
    _encoder("ernie", "ErnieForCausalLM", "ernie"),
    _encoder("megatron-bert", "MegatronBertForCausalLM", "bert"),
    _encoder("rembert", "RemBertForCausalLM", "rembert", input_embedding_size=16, output_embedding_size=24),
    _encoder("roberta", "RobertaForCausalLM", "roberta"),
    _encoder("roberta-prelayernorm", "RobertaPreLayerNormForCausalLM", "roberta_prelayernorm"),
    _encoder(
        "roc_bert",
        "RoCBertForCausalLM",
        "roc_bert",
        pronunciation_embed_dim=8,
        shape_embed_dim=8,
        pronunciation_vocab_size=96,
        shape_vocab_size=96,
    ),
    _encoder("roformer", "RoFormerForCausalLM", "roformer", embedding_size=16),
    _encoder("xlm-roberta", "XLMRobertaForCausalLM", "roberta"),
    _encoder("xlm-roberta-xl", "XLMRobertaXLForCausalLM", "roberta"),
    _encoder("xmod", "XmodForCausalLM", "roberta", default_language="en_XX"),
    _decoder("bart", "BartForCausalLM"),
    _decoder("bigbird_pegasus", "BigBirdPegasusForCausalLM"),
    _decoder("blenderbot", "BlenderbotForCausalLM"),
    _decoder("blenderbot-small", "BlenderbotSmallForCausalLM"),
    _decoder("marian", "MarianForCausalLM", decoder_vocab_size=96),
    _decoder("mbart", "MBartForCausalLM"),
    _decoder("mvp", "MvpForCausalLM"),
    _decoder("pegasus", "PegasusForCausalLM"),
    _decoder("plbart", "PLBartForCausalLM"),
    _decoder("trocr", "TrOCRForCausalLM"),
)
