// Pictures cut to a size, as the service would cut them.

/** The part of a picture that fills a shape of `width` x `height`, cropped about its centre. */
export function covering(picture, width, height) {
  const scale = Math.min(picture.width / width, picture.height / height);
  const across = width * scale;
  const down = height * scale;
  return { x: (picture.width - across) / 2, y: (picture.height - down) / 2, across, down };
}

/** The part of `source` that fills `width` x `height`, as PNG; laid on `ground` if there is one. */
export function cut(source, width, height, ground) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  if (ground) {
    pen.fillStyle = ground;
    pen.fillRect(0, 0, width, height);
  }
  const { x, y, across, down } = covering(source, width, height);
  pen.drawImage(source, x, y, across, down, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
