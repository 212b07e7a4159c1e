"""Networks: `backbones` make feature maps, `heads` make logits of them, `weights` says where a backbone starts."""
