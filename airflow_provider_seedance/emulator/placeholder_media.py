"""Minimal playable files, which an emulator without codecs serves."""

from __future__ import annotations

import base64
import zlib

#: One second of 16 by 16 pixels, H.264, 4 frames a second, no sound.
TINY_MP4 = zlib.decompress(
    base64.b85decode(
        "c-nnbL2Dd06xOcoQc5Wfm^RQgQ5xq^@UCYjo5fieuxm^g>Ow+j4oP65l{B8oN~2jxyY~9zLl32g9(@Qs2XgDJmlgtTX-+vOp@-%Y"
        "l1oB<!RBeajwjp3+L7MVd*Aycy(cX~2*-Amr$$MHs>n&`0U1(X=1m`=nX^)<Awo#VVZzWmZRUB=E69Dvt@18vdcKBEY*qNav6}Qi"
        "ziE5Lnlt}pb8DZx&i}4EKj{c9ab^w38W+YMM@)E&*vcQ0r34f#+4R}hivHc7#iX7vp^rSnl<_k18q8IPWK3{}sbn(EVo(-_vLG#Q"
        "bBP`LYE1LEbc~M&THr&y(lE9wK)-9OVI|CgE82Tf;SN2IIv_jmMNGHT<1viOz`9ZS>i$RLr)Xgt<deO5SCC@ZfBnVn3YtqE&iuUZ"
        "PSmw}lFCotvKU*W`Do4AN&XjL_hq~5HL%es+w4Rxfp4$0JFr)8fII{J+@u31Ri#p10offe>q>ZC@<O_Hwp=bKu_k#g%15uKhj-%q"
        "J*ynyA|pj`k+dx`j9Wp&htCUO{$Z>+6ukOC0t)2j2Xo```ahd5et-73^XtL#BmDT>%U8QWtBLEFD$TLqx(I5g0j8C2FK>QbZ{qc9"
        "8{lJ{f@4GFBf(>f1JAoq54^yk6KnJK%F52pPQzU=B}mp#dV9t3HWDiZU{r2Xm6<lCq)TY%VYo!0j~VX@MSG#wh94#w5hKIh3`-uu"
        "1;=L41<k{`837!|NVCvycmRO`%XF8s$Z@%dNRw=vhkgswL@P-m2=%emT!_>FVs&?wQ40#~OBfj^Y)@r84E$x^$1yQB%1tlLA!tI-"
        "&m$GbhPxn}Xb3Ri6iW3-0+Z<2W<*N)vBATcE|#FFB-U*s%`De~00`_|G0<cbQ6+OyYzT4#e=KPR6adu3VPZ`rcT_t(-A-%{T91#w"
        "9R?SV)CgW|*u;kNjMIUmD#Be#G&hM$G!3bav4jV}T_#}?HX(Vq?^X}JMhn#3(G-&GhOJAW7|U}YPIE{qln!#<gaY+L54q>`3IE~y"
        "_NgCHwc5Y`H>!c<^YuHp{o9wHO|`|J(CjbnEv(;J1NXvT{?^s0p?3OTboCH&>m<k<5z<T-"
    )
)
#: Two by two pixels.
TINY_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGPUsIliYGBgYmBgYGBgAAAI4ADCqDVh3wAAAABJ"
    "RU5ErkJggg=="
)
