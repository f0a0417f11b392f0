"""Pictures in (untrusted), videos out, and the request that made a video inside the video's own file.

    sniff      what a file is, by its first bytes
    image      an uploaded picture to clean RGB, or one sentence why not; fit, hash, save
    writer     what every video writer promises: whole file or none
    ffmpeg     one ffmpeg process, fed or read, that never outlives its need
    video      MP4: write and read frames
    formats    GIF, animated WebP, zip of PNG; the writer for a file name; the poster
    metadata   the request as text inside each of the four formats

No torch, no gradio; nothing of jobs or models.
"""
