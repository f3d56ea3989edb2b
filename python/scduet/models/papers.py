"""The papers of models and scores, for `cite` and the documentation. Each model of `MODELS` has a row in `PAPERS`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A publication."""

    authors: str
    title: str
    journal: str  # with volume, pages and year
    doi: str = ""
    url: str = ""  # of a paper without a DOI

    def __str__(self) -> str:
        return f"{self.authors} {self.title}. {self.journal}. {self.url or f'https://doi.org/{self.doi}'}"

    def markdown(self) -> str:
        link = f"[{self.url}]({self.url})" if self.url else f"[doi:{self.doi}](https://doi.org/{self.doi})"
        return f"{self.authors} {self.title}. {self.journal}. {link}"


SCVI = Paper(
    "Lopez R, Regier J, Cole MB, Jordan MI, Yosef N.",
    "Deep generative modeling for single-cell transcriptomics",
    "Nature Methods 15:1053-1058 (2018)",
    "10.1038/s41592-018-0229-2",
)
SCANVI = Paper(
    "Xu C, Lopez R, Mehlman E, Regier J, Jordan MI, Yosef N.",
    "Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models",
    "Molecular Systems Biology 17:e9620 (2021)",
    "10.15252/msb.20209620",
)
LDVAE = Paper(
    "Svensson V, Gayoso A, Yosef N, Pachter L.",
    "Interpretable factor models of single-cell RNA-seq via variational autoencoders",
    "Bioinformatics 36:3418-3421 (2020)",
    "10.1093/bioinformatics/btaa169",
)
AUTOZI = Paper(
    "Clivio O, Lopez R, Regier J, Gayoso A, Jordan MI, Yosef N.",
    "Detecting zero-inflated genes in single-cell transcriptomics data",
    "bioRxiv 794875 (2019)",
    "10.1101/794875",
)
VAE = Paper(
    "Kingma DP, Welling M.", "Auto-encoding variational Bayes", "arXiv 1312.6114 (2013)", "10.48550/arXiv.1312.6114"
)
DENOISING = Paper(
    "Vincent P, Larochelle H, Bengio Y, Manzagol P-A.",
    "Extracting and composing robust features with denoising autoencoders",
    "Proceedings of ICML:1096-1103 (2008)",
    "10.1145/1390156.1390294",
)
ADVERSARIAL = Paper(
    "Makhzani A, Shlens J, Jaitly N, Goodfellow I, Frey B.",
    "Adversarial autoencoders",
    "arXiv 1511.05644 (2015)",
    "10.48550/arXiv.1511.05644",
)
INFOVAE = Paper(
    "Zhao S, Song J, Ermon S.",
    "InfoVAE: information maximizing variational autoencoders",
    "arXiv 1706.02262 (2017)",
    "10.48550/arXiv.1706.02262",
)
BETA_TC = Paper(
    "Chen RTQ, Li X, Grosse R, Duvenaud D.",
    "Isolating sources of disentanglement in variational autoencoders",
    "arXiv 1802.04942 (2018)",
    "10.48550/arXiv.1802.04942",
)
TOTALVI = Paper(
    "Gayoso A, Steier Z, Lopez R, Regier J, Nazor KL, Streets A, Yosef N.",
    "Joint probabilistic modeling of single-cell multi-omic data with totalVI",
    "Nature Methods 18:272-282 (2021)",
    "10.1038/s41592-020-01050-x",
)
MULTIVI = Paper(
    "Ashuach T, Gabitto MI, Koodli RV, Saldi G-A, Jordan MI, Yosef N.",
    "MultiVI: deep generative model for the integration of multimodal data",
    "Nature Methods 20:1222-1231 (2023)",
    "10.1038/s41592-023-01909-9",
)
SCMM = Paper(
    "Minoura K, Abe K, Nam H, Nishikawa H, Shimamura T.",
    "A mixture-of-experts deep generative model for integrated analysis of single-cell multiomics data",
    "Cell Reports Methods 1:100071 (2021)",
    "10.1016/j.crmeth.2021.100071",
)
COBOLT = Paper(
    "Gong B, Zhou Y, Purdom E.",
    "Cobolt: integrative analysis of multimodal single-cell sequencing data",
    "Genome Biology 22:351 (2021)",
    "10.1186/s13059-021-02556-z",
)
TRANSLATION = Paper(
    "Yang KD, Belyaeva A, Venkatachalapathy S, Damodaran K, Katcoff A, Radhakrishnan A, Shivashankar GV, Uhler C.",
    "Multi-domain translation between single-cell imaging and sequencing data using autoencoders",
    "Nature Communications 12:31 (2021)",
    "10.1038/s41467-020-20249-2",
)
CCA = Paper(
    "Hotelling H.",
    "Relations between two sets of variates",
    "Biometrika 28:321-377 (1936)",
    "10.1093/biomet/28.3-4.321",
)
DPCCA = Paper(
    "Gundersen G, Dumitrascu B, Ash JT, Engelhardt BE.",
    "End-to-end training of deep probabilistic CCA on paired biomedical observations",
    "Conference on Uncertainty in Artificial Intelligence (2019)",
    url="https://auai.org/uai2019/proceedings/papers/340.pdf",
)
PEAKVI = Paper(
    "Ashuach T, Reidenbach DA, Gayoso A, Yosef N.",
    "PeakVI: a deep generative model for single-cell chromatin accessibility analysis",
    "Cell Reports Methods 2:100182 (2022)",
    "10.1016/j.crmeth.2022.100182",
)
POISSONVI = Paper(
    "Martens LD, Fischer DS, Yépez VA, Theis FJ, Gagneur J.",
    "Modeling fragment counts improves single-cell ATAC-seq analysis",
    "Nature Methods 21:28-31 (2024)",
    "10.1038/s41592-023-02112-6",
)
VELOVI = Paper(
    "Gayoso A, Weiler P, Lotfollahi M, Klein D, Hong J, Streets A, Theis FJ, Yosef N.",
    "Deep generative modeling of transcriptional dynamics for RNA velocity analysis in single cells",
    "Nature Methods 21:50-59 (2024)",
    "10.1038/s41592-023-01994-w",
)
DCA = Paper(
    "Eraslan G, Simon LM, Mircea M, Mueller NS, Theis FJ.",
    "Single-cell RNA-seq denoising using a deep count autoencoder",
    "Nature Communications 10:390 (2019)",
    "10.1038/s41467-018-07931-2",
)
DEEPIMPUTE = Paper(
    "Arisdakessian C, Poirion O, Yunits B, Zhu X, Garmire LX.",
    "DeepImpute: an accurate, fast, and scalable deep neural network method to impute single-cell RNA-seq data",
    "Genome Biology 20:211 (2019)",
    "10.1186/s13059-019-1837-6",
)
SCGEN = Paper(
    "Lotfollahi M, Wolf FA, Theis FJ.",
    "scGen predicts single-cell perturbation responses",
    "Nature Methods 16:715-721 (2019)",
    "10.1038/s41592-019-0494-8",
)
TRVAE = Paper(
    "Lotfollahi M, Naghipourfar M, Theis FJ, Wolf FA.",
    "Conditional out-of-distribution generation for unpaired data using transfer VAE",
    "Bioinformatics 36:i610-i617 (2020)",
    "10.1093/bioinformatics/btaa800",
)
EXPIMAP = Paper(
    "Lotfollahi M, Rybakov S, Hrovatin K, Hediyeh-zadeh S, Talavera-López C, Misharin AV, Theis FJ.",
    "Biologically informed deep learning to query gene programs in single-cell atlases",
    "Nature Cell Biology 25:337-350 (2023)",
    "10.1038/s41556-022-01072-x",
)
KPNN = Paper(
    "Fortelny N, Bock C.",
    "Knowledge-primed neural networks enable biologically interpretable deep learning on single-cell sequencing data",
    "Genome Biology 21:190 (2020)",
    "10.1186/s13059-020-02100-5",
)
SOLO = Paper(
    "Bernstein NJ, Fong NL, Lam I, Roy MA, Hendrickson DG, Kelley DR.",
    "Solo: doublet identification in single-cell RNA-seq via semi-supervised deep learning",
    "Cell Systems 11:95-101 (2020)",
    "10.1016/j.cels.2020.05.010",
)
GENEFORMER = Paper(
    "Theodoris CV, Xiao L, Chopra A, et al.",
    "Transfer learning enables predictions in network biology",
    "Nature 618:616-624 (2023)",
    "10.1038/s41586-023-06139-9",
)
SCGPT = Paper(
    "Cui H, Wang C, Maan H, Pang K, Luo F, Duan N, Wang B.",
    "scGPT: toward building a foundation model for single-cell multi-omics using generative AI",
    "Nature Methods 21:1470-1480 (2024)",
    "10.1038/s41592-024-02201-0",
)
SCFOUNDATION = Paper(
    "Hao M, Gong J, Zeng X, et al.",
    "Large-scale foundation model on single-cell transcriptomics",
    "Nature Methods 21:1481-1491 (2024)",
    "10.1038/s41592-024-02305-7",
)
SCIB = Paper(
    "Luecken MD, Büttner M, Chaichoompu K, et al.",
    "Benchmarking atlas-level data integration in single-cell genomics",
    "Nature Methods 19:41-50 (2022)",
    "10.1038/s41592-021-01336-8",
)
HARMONY = Paper(
    "Korsunsky I, Millard N, Fan J, et al.",
    "Fast, sensitive and accurate integration of single-cell data with Harmony",
    "Nature Methods 16:1289-1296 (2019)",
    "10.1038/s41592-019-0619-0",
)
SCGAN = Paper(
    "Marouf M, Machart P, Bansal V, et al.",
    "Realistic in silico generation and augmentation of single-cell RNA-seq data using generative adversarial networks",
    "Nature Communications 11:166 (2020)",
    "10.1038/s41467-019-14018-z",
)
CRITIC_FEATURES = Paper(
    "Ghahramani A, Watt FM, Luscombe NM",
    "Generative adversarial networks simulate gene expression and predict perturbations in single cells",
    "bioRxiv 262501 (2018)",
    "10.1101/262501",
)
CARDEC = Paper(
    "Lakkis J, Wang D, Zhang Y, et al.",
    "A joint deep learning model enables simultaneous batch effect correction, denoising, and clustering in "
    "single-cell transcriptomics",
    "Genome Research 31:1753-1766 (2021)",
    "10.1101/gr.271874.120",
)
DIFFVAE = Paper(
    "Bica I, Andrés-Terré H, Cvejic A, Liò P",
    "Unsupervised generative and graph representation learning for modelling cell differentiation",
    "Scientific Reports 10:9790 (2020)",
    "10.1038/s41598-020-66166-8",
)
SAUCIE = Paper(
    "Amodio M, van Dijk D, Srinivasan K, et al.",
    "Exploring single-cell data with deep multitasking neural networks",
    "Nature Methods 16:1139-1145 (2019)",
    "10.1038/s41592-019-0576-7",
)
MAGAN = Paper(
    "Amodio M, Krishnaswamy S",
    "MAGAN: aligning biological manifolds",
    "Proceedings of ICML, PMLR 80:215-223 (2018)",
    "10.48550/arXiv.1803.00385",
)
SCGCN = Paper(
    "Song Q, Su J, Zhang W",
    "scGCN is a graph convolutional networks algorithm for knowledge transfer in single cell omics",
    "Nature Communications 12:3826 (2021)",
    "10.1038/s41467-021-24172-y",
)
SIGGCN = Paper(
    "Wang T, Bai J, Nabavi S",
    "Single-cell classification using graph convolutional networks",
    "BMC Bioinformatics 22:364 (2021)",
    "10.1186/s12859-021-04278-2",
)
DESTVI = Paper(
    "Lopez R, Li B, Keren-Shaul H, et al.",
    "DestVI identifies continuums of cell types in spatial transcriptomics data",
    "Nature Biotechnology 40:1360-1369 (2022)",
    "10.1038/s41587-022-01272-8",
)
STEREOSCOPE = Paper(
    "Andersson A, Bergenstråhle J, Asp M, et al.",
    "Single-cell and spatial transcriptomics enables probabilistic inference of cell type topography",
    "Communications Biology 3:565 (2020)",
    "10.1038/s42003-020-01247-y",
)
GIMVI = Paper(
    "Lopez R, Nazaret A, Langevin M, et al.",
    "A joint model of unpaired data from scRNA-seq and spatial transcriptomics for imputing missing gene expression "
    "measurements",
    "arXiv:1905.02269 (2019)",
    "10.48550/arXiv.1905.02269",
)
SCADEN = Paper(
    "Menden K, Marouf M, Oller S, et al.",
    "Deep learning-based cell composition analysis from tissue expression profiles",
    "Science Advances 6:eaba2619 (2020)",
    "10.1126/sciadv.aba2619",
)
PAPERS: dict[str, tuple[Paper, ...]] = {  # name of a model or transformer -> its papers
    "scvi": (SCVI,),
    "scanvi": (SCANVI, SCVI),
    "ldvae": (LDVAE,),
    "autozi": (AUTOZI,),
    "autoencoder": (VAE, DENOISING, ADVERSARIAL, INFOVAE, BETA_TC),
    "totalvi": (TOTALVI,),
    "multivi": (MULTIVI,),
    "mmvae": (SCMM, COBOLT, TRANSLATION),
    "pcca": (CCA, DPCCA),
    "dpcca": (DPCCA,),
    "peakvi": (PEAKVI,),
    "poissonvi": (POISSONVI,),
    "velovi": (VELOVI,),
    "dca": (DCA,),
    "deepimpute": (DEEPIMPUTE,),
    "scgen": (SCGEN,),
    "trvae": (TRVAE,),
    "gan": (SCGAN, CRITIC_FEATURES),
    "cardec": (CARDEC,),
    "graphdiffvae": (DIFFVAE,),
    "saucie": (SAUCIE,),
    "magan": (MAGAN,),
    "scgcn": (SCGCN,),
    "siggcn": (SIGGCN,),
    "expimap": (EXPIMAP,),
    "condscvi": (DESTVI,),
    "destvi": (DESTVI,),
    "stereoscope_cells": (STEREOSCOPE,),
    "stereoscope": (STEREOSCOPE,),
    "gimvi": (GIMVI,),
    "scaden": (SCADEN,),
    "kpnn": (KPNN,),
    "solo": (SOLO,),
    "geneformer": (GENEFORMER,),
    "scgpt": (SCGPT,),
    "scfoundation": (SCFOUNDATION,),
}
